"""Reading pictures by one rule: upright, high-depth grey by its type, limits, odd metadata."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from continuous_unet.images.decode import (
    Unreadable,
    load_image,
    normalise_mode,
    range_of_values,
    to_array,
    value_range,
)
from continuous_unet.images.ranges import to_model_range, to_unit_range

CASES = Path(__file__).parents[1] / "cases"


def grey(name, values=None):
    """The mean of a grey file, in [0, 1]."""
    return float(np.mean(to_unit_range(to_array(normalise_mode(load_image(CASES / name), 1, values), 1))))


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("g16.png", 0.498),
        ("float01.tif", 0.498),
        ("float_overshoot.tif", 0.542),
        ("float_m1_1.tif", 0.498),
        ("float_hdr4.tif", 0.541),
        ("int32_8bit.tif", 0.498),
        ("int32_76500.tif", 0.541),
    ],
)
def test_high_depth_files_are_neither_black_nor_white(name, mean):
    assert grey(name) == pytest.approx(mean, abs=0.002)


def test_a_caller_can_fix_the_range():
    assert grey("float01.tif", (0, 2)) == pytest.approx(0.249, abs=0.002)
    assert grey("g16.png", (0, 4095)) > 0.95


RANGES = {
    ("I;16", 0, 900): (0, 65535, True),
    ("I;16B", 3, 65535): (0, 65535, True),
    ("F", 0, 1): (0, 1, True),
    ("F", 0, 0.01): (0, 1, True),
    ("F", -0.05, 1.09): (0, 1, True),
    ("F", 0, 255): (0, 255, True),
    ("F", -3, 260): (0, 255, True),
    ("F", 0, 40_000): (0, 65535, True),
    ("F", -0.9, 0.7): (-1, 1, True),
    ("F", 0, 3.7): (0, 3.7, False),
    ("F", -1024, 3000): (-1024, 3000, False),
    ("I", 0, 3): (0, 255, True),
    ("I", 20, 255): (0, 255, True),
    ("I", 0, 60_000): (0, 65535, True),
    ("I", 0, 4095): (0, 4095, False),
    ("I", 0, 76_500): (0, 76_500, False),
    ("I", -5, 200): (-5, 200, False),
}


@pytest.mark.parametrize("values", RANGES)
def test_ranges(values):
    assert range_of_values(*values) == RANGES[values]
    mode, low, high = values
    if mode in ("F", "I"):
        array = np.array([[low, high]], dtype={"F": np.float32, "I": np.int32}[mode])
        image = Image.fromarray(array)
        assert value_range(image)[:2] == pytest.approx(RANGES[values][:2])


def test_the_orientation_is_carried_out():
    turned = load_image(CASES / "or6.jpg")
    assert turned.size == (32, 40)
    assert load_image(CASES / "or6.jpg").getexif().get(0x0112, 1) == 1  # nobody turns it once more


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_that_of_pillow(orientation, tmp_path):
    from PIL import ImageOps

    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "x.png")), expected)


@pytest.mark.parametrize("name", ["exif_garbage.jpg", "x_ascii_in_short.jpg", "x_slong_orientation.jpg"])
def test_odd_metadata_does_not_keep_the_picture(name):
    assert load_image(CASES / name).size in ((40, 32), (32, 40))


def test_a_parser_that_fails_does_not_keep_the_picture(monkeypatch):
    def refuse(self):
        raise SyntaxError("not a TIFF file")  # which versions of Pillow before 13 raise here

    monkeypatch.setattr(JpegImageFile, "getexif", refuse, raising=False)
    assert load_image(CASES / "or6.jpg").size == (40, 32)


def test_the_limit_of_pixels_is_named_and_can_be_raised(tmp_path, monkeypatch):
    monkeypatch.setattr("continuous_unet.images.decode.MAX_PIXELS", 500)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow refuses twice as much by itself
    monkeypatch.setattr("warnings.showwarning", lambda *arguments: pytest.fail("a warning reached the user"))
    for side in (30, 40):
        Image.new("L", (side, side)).save(tmp_path / "x.png")
        with pytest.raises(Unreadable, match="limit of 500; raise it with --max-pixels"):
            load_image(tmp_path / "x.png")
        with pytest.raises(Unreadable, match="limit of 800"):
            load_image(tmp_path / "x.png", max_pixels=800)
        assert load_image(tmp_path / "x.png", max_pixels=1600).size == (side, side)
    assert Image.MAX_IMAGE_PIXELS == 500


def test_values_that_are_not_finite_are_no_image(tmp_path):
    Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(Unreadable, match="not finite"):
        load_image(tmp_path / "x.tif")


def test_the_two_ranges_are_each_others_inverse():
    for values in (torch.rand(100), np.random.default_rng(0).random(100)):
        again = to_unit_range(to_model_range(values))
        assert float(abs(again - values).max()) < 1e-6
    assert to_model_range(torch.tensor([0.0, 1.0])).tolist() == [-1, 1]
