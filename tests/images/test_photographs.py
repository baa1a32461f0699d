"""Files of every mode: what belongs to a photograph is still there after it was restored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from continuous_unet.base.errors import InputError
from continuous_unet.images.decode import Unreadable
from continuous_unet.images.photographs import Photograph, check_fits, read_photograph, write_photograph

CASES = Path(__file__).parents[1] / "cases"
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (9, 7), dtype=np.uint8)


def with_alpha(pixels):
    image = Image.fromarray(pixels)
    image.putalpha(Image.fromarray(ALPHA))
    return image


MODES = {
    "grey": (lambda: Image.fromarray(GREY), GREY[..., None], None),
    "colour": (lambda: Image.fromarray(COLOUR), COLOUR, None),
    "grey, alpha": (lambda: with_alpha(GREY), GREY[..., None], ALPHA),
    "colour, alpha": (lambda: with_alpha(COLOUR), COLOUR, ALPHA),
    "16-bit grey": (
        lambda: Image.fromarray(GREY.astype(np.uint16) * 257 + 1),
        (GREY.astype(np.uint16) * 257 + 1)[..., None],
        None,
    ),
    "bits": (lambda: Image.fromarray(GREY > 128), (GREY > 128)[..., None].astype(np.uint8) * 255, None),
}


@pytest.mark.parametrize("mode", MODES)
def test_what_is_read_is_written(mode, tmp_path):
    image, pixels, alpha = MODES[mode]
    image().save(tmp_path / "in.png")
    photograph = read_photograph(tmp_path / "in.png")
    assert photograph.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(photograph.pixels, pixels)
    assert (photograph.alpha is None) == (alpha is None)
    # through a tensor, as a model sees it
    again = photograph.from_bands(photograph.tensor().split(4, dim=1))
    write_photograph(again, tmp_path / "out.png")
    out = read_photograph(tmp_path / "out.png")
    np.testing.assert_array_equal(out.pixels, pixels)
    if alpha is not None:
        np.testing.assert_array_equal(out.alpha, alpha)


def test_palettes_become_colours(tmp_path):
    palette = Image.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "in.png")
    np.testing.assert_array_equal(read_photograph(tmp_path / "in.png").pixels, np.asarray(palette.convert("RGB")))
    palette.save(tmp_path / "clear.png", transparency=3)
    clear = np.asarray(palette) == 3
    np.testing.assert_array_equal(read_photograph(tmp_path / "clear.png").alpha == 0, clear)


def test_other_colour_spaces_become_rgb_without_their_profile(tmp_path):
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "in.jpg", icc_profile=b"of printing")
    photograph = read_photograph(tmp_path / "in.jpg")
    assert photograph.pixels.shape == (9, 7, 3)
    assert photograph.icc_profile is None
    assert photograph.notes == ["CMYK was converted to RGB, without its profile"]


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_profile_and_exif_are_kept_and_the_orientation_is_done(ending, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a cat"  # turned by a quarter, with a description
    Image.fromarray(COLOUR).save(tmp_path / "in.jpg", icc_profile=profile, exif=exif, quality=95)
    photograph = read_photograph(tmp_path / "in.jpg")
    assert photograph.pixels.shape == (7, 9, 3)
    write_photograph(photograph, tmp_path / f"out.{ending}")
    with Image.open(tmp_path / f"out.{ending}") as image:
        assert image.size == (9, 7)
        assert image.info["icc_profile"] == profile
        assert image.getexif().get(0x0112, 1) == 1
        assert image.getexif()[0x010E] == "a cat"


def test_transparency_grows_with_the_image():
    photograph = Photograph(np.zeros((2, 2, 1), np.uint8), np.array([[0, 0], [255, 255]], np.uint8))
    large = photograph.from_bands([torch.ones(1, 6, 6)], scale=3)
    assert large.pixels.shape == (6, 6, 1)
    assert large.alpha.shape == (6, 6)
    assert large.alpha[0, 0] == 0
    assert large.alpha[-1, 0] == 255


def test_formats_that_cannot_hold_it(tmp_path):
    for photograph, name, message in (
        (Photograph(COLOUR, ALPHA), "x.jpg", "transparency"),
        (Photograph(GREY[..., None].astype(np.uint16)), "x.jpg", "16 bits"),
        (Photograph(COLOUR), "x.gif", "expected a name"),
        (Photograph(GREY[..., None].astype(np.uint16), ALPHA), "x.png", "16-bit grey with transparency"),
    ):
        with pytest.raises(InputError, match=message):
            write_photograph(photograph, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_finite_are_no_image():
    with pytest.raises(InputError, match="not finite"):
        Photograph(COLOUR).from_bands([torch.full((3, 9, 7), float("nan"))])


def test_no_image_is_unreadable(tmp_path):
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(Unreadable):
        read_photograph(tmp_path / "x.png")


def test_the_metadata_of_a_tiff_is_kept(tmp_path):
    image = Image.fromarray(COLOUR)
    exif = Image.Exif()
    exif[271], exif[315], exif[33432], exif[0x8769] = "Maker", "Artist", "(c) me", {0x829A: 0.5}
    image.save(tmp_path / "in.tif", exif=exif.tobytes(), dpi=(300, 300))
    for ending in ("tif", "png", "jpg"):
        photograph = read_photograph(tmp_path / "in.tif")
        assert photograph.notes == []
        assert write_photograph(photograph, tmp_path / f"out.{ending}") == []
        with Image.open(tmp_path / f"out.{ending}") as out:
            found = out.getexif()
            assert [found[271], found[315], found[33432]] == ["Maker", "Artist", "(c) me"]
            assert float(found.get_ifd(0x8769)[0x829A]) == 0.5
            assert out.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_the_case_with_metadata(tmp_path):
    photograph = read_photograph(CASES / "ex.tif")
    write_photograph(photograph, tmp_path / "out.tif")
    with Image.open(tmp_path / "out.tif") as out:
        assert [out.getexif()[tag] for tag in (271, 315, 33432)] == ["Maker", "Artist", "(c) me"]


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("exif_garbage.jpg", "left out: EXIF data, which is damaged"),
        ("x_ascii_in_short.jpg", "left out: the damaged EXIF field ResolutionUnit"),
        ("x_slong_orientation.jpg", "left out: the damaged EXIF field Compression"),
        ("la16.png", "its 16-bit values were read as 8 bits"),
        ("rgb16.png", "its 16-bit values were read as 8 bits"),
        (
            "float_hdr4.tif",
            "its values were counted from 0 (black) to 3.68627 (white); --value-range LOW:HIGH changes this",
        ),
    ],
)
def test_what_cannot_be_kept_is_said(name, note, tmp_path):
    photograph = read_photograph(CASES / name)
    assert photograph.notes[0] == note
    write_photograph(photograph, tmp_path / f"out.{name.rsplit('.')[-1]}")


def test_other_metadata_is_named_when_it_is_left_out(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("Title", "a cat")
    Image.fromarray(COLOUR).save(tmp_path / "text.png", pnginfo=text)
    Image.fromarray(COLOUR).save(tmp_path / "xmp.jpg", xmp=b"<x/>", comment=b"hello")
    assert read_photograph(tmp_path / "text.png").notes == ["left out: text"]
    assert read_photograph(tmp_path / "xmp.jpg").notes == ["left out: XMP data, comment"]
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    photograph = read_photograph(tmp_path / "pages.tif")
    assert (photograph.frames, photograph.notes) == (2, ["only the first of its 2 frames was read"])


def test_metadata_that_a_format_cannot_hold_is_a_note(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "x" * 70_000
    photograph = Photograph(COLOUR, exif=exif.tobytes())
    (note,) = write_photograph(photograph, tmp_path / "x.jpg")
    assert "the JPEG format cannot hold it: EXIF data" in note
    assert read_photograph(tmp_path / "x.jpg").exif is None
    assert write_photograph(photograph, tmp_path / "x.png") == []


def test_sizes_beyond_a_format_are_named(tmp_path):
    photograph = read_photograph(CASES / "wide.png")
    check_fits(photograph, tmp_path / "w.webp")
    for name, scale, longest in (("w.webp", 4, 16383), ("w.jpg", 16, 65500)):
        with pytest.raises(InputError, match=f"at most {longest} a side"):
            check_fits(photograph, tmp_path / name, scale)
    check_fits(photograph, tmp_path / "w.png", 16)


def test_an_error_of_pillow_is_no_full_disk(tmp_path, monkeypatch):
    def save(*arguments, **options):
        raise OSError("encoder error -2 when writing image file")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(InputError, match=r"cannot be written as PNG \(encoder error"):
        write_photograph(Photograph(COLOUR), tmp_path / "x.png")


def test_eight_bits_in_a_wide_type_stay_eight_bits():
    assert read_photograph(CASES / "int32_8bit.tif").pixels.dtype == np.uint8
    assert read_photograph(CASES / "g16.png").pixels.dtype == np.uint16
    fixed = read_photograph(CASES / "float_hdr4.tif", values=(0, 4))
    assert "counted from" not in fixed.notes[0]
    assert float(fixed.tensor().mean()) == pytest.approx(2 / 4, abs=0.01)
