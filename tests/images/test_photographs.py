"""Files of every mode: what belongs to a photograph is still there after it was restored."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from continuous_unet.base.errors import InputError
from continuous_unet.base.signals import StopRequest
from continuous_unet.images.decode import Unreadable
from continuous_unet.images.photographs import Photograph, read_photograph, write_photograph
from continuous_unet.tasks.files import plan_files, restore_files

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


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "deep/c.gif"):
        Image.fromarray(COLOUR).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path


def test_where_results_go(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = {str(source): str(target) for source, target in plan_files(["in"], "out")}
    # what is read and cannot be written becomes a PNG
    assert found == {"in/a.png": "out/a.png", "in/b.jpg": "out/b.jpg", "in/deep/c.gif": "out/deep/c.png"}
    ((_, target),) = plan_files(["in/a.png"], "new.webp")
    assert str(target) == "new.webp"
    for inputs, output, message in (
        (["in"], "", "no output was named"),
        (["in"], "one.png", "one file and there are 3 inputs"),
        (["in"], "one.txt", "expected a folder"),
        (["in/a.png", "in/a.png"], "out", "would both become"),
        (["in/a.png"], "in", "exists already"),
        (["in/a.png"], "in/b.jpg", "exists already"),
        (["in/a.png"], "in/notes.txt", "expected a folder"),
        (["in/a.png"], "in/b.jpg/deeper", "no folder"),
    ):
        with pytest.raises(InputError, match=message):
            plan_files(inputs, output)
    assert plan_files(["in/a.png"], "in", overwrite=True)


def test_a_bad_file_does_not_keep_the_others(folder, capsys):
    (folder / "in" / "b.jpg").write_bytes(b"torn")
    jobs = plan_files([str(folder / "in"), str(folder / "missing.png")], str(folder / "out"))
    result = restore_files(jobs, lambda photo, check: (photo, {"extra": 1}), stop=StopRequest(), description="x")
    assert sorted(p.name for p in (folder / "out").rglob("*") if p.is_file()) == ["a.png", "c.png"]
    assert [entry["extra"] for entry in result.files] == [1, 1]
    assert [entry["input"].rsplit("/")[-1] for entry in result.failed] == ["b.jpg", "missing.png"]
    assert result.megapixels == pytest.approx(2 * 63e-6)
    lines = [line for line in capsys.readouterr().err.splitlines() if "b.jpg" in line]
    assert len(lines) == 1


def test_a_signal_ends_the_work_between_pieces(folder):
    stop = StopRequest()

    def restore(photograph, check):
        stop.signal = 15
        check()

    jobs = plan_files([str(folder / "in")], str(folder / "out"))
    result = restore_files(jobs, restore, stop=stop, description="x")
    assert (result.stopped_by, result.files, result.failed) == (15, [], [])
    assert not (folder / "out").exists() or not any((folder / "out").iterdir())
