"""The literature's conventions, on models whose result is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.evaluation.quality.restoration import (
    Quality,
    evaluate_denoising,
    evaluate_upscaling,
    luma,
    read_images,
)
from continuous_unet.images.resampling import enlarge, to_8_bit


class Doing:
    """A pipeline that does what it is told to, and remembers what it was given."""

    def __init__(self, function, **config):
        self.function, self.config, self.seen = function, SimpleNamespace(**config), []

    def __call__(self, image, **options):
        self.seen.append(image)
        return SimpleNamespace(images=self.function(image)[None].clamp(0, 1))


def images(number=3, shape=(1, 40, 36)):
    generator = torch.Generator().manual_seed(0)
    return [(f"{i}.png", to_8_bit(torch.rand(shape, generator=generator))) for i in range(number)]


def test_noise_is_of_its_strength_not_clipped_and_the_same_each_time():
    pipeline = Doing(lambda image: image)
    one, again = (evaluate_denoising(pipeline, images(), 50.0) for _ in range(2))
    assert {k: v for k, v in one.items() if "second" not in k} == {k: v for k, v in again.items() if "second" not in k}
    assert one["input_psnr"] == pytest.approx(20 * np.log10(255 / 50), abs=0.2)
    assert one["psnr"] > one["input_psnr"] + 0.5  # a file would be clipped: half of the pixels are near enough
    assert min(float(image.min()) for image in pipeline.seen) < -0.1
    assert one["images"] == 3
    other = evaluate_denoising(pipeline, images(), 50.0, seed=1)
    assert other["psnr"] != one["psnr"]
    # an image's noise does not depend on the images before it
    (last,) = (evaluate_denoising(Doing(lambda image: image), images()[2:], 50.0) for _ in range(1))
    assert torch.equal(pipeline.seen[2], pipeline.seen[5])
    assert last["images"] == 1


def test_results_are_rounded_as_in_a_file():
    clean = images()
    names = iter([image for _, image in clean])
    nearly = Doing(lambda image: next(names) + 0.4 / 255)
    assert evaluate_denoising(nearly, clean, 25.0)["psnr"] == float("inf")


def test_metrics_are_means_of_images():
    quality, clean = Quality(), torch.full((1, 16, 16), 100.0)
    for difference in (1.0, 10.0):
        quality.add(clean + difference, clean)
    assert quality.means()["psnr"] == pytest.approx((20 * np.log10(255) + 20 * np.log10(25.5)) / 2, abs=1e-4)
    assert quality.means()["lpips"] is None
    assert quality.means()["ssim"] < 1


def test_super_resolution_is_measured_on_y_without_the_border():
    shape = (3, 43, 38)
    bicubic = Doing(lambda image: enlarge(image[None], 4)[0], scale=4)
    row = evaluate_upscaling(bicubic, images(shape=shape))
    assert row["psnr"] == row["input_psnr"]
    assert bicubic.seen[0].shape == (3, 10, 9)  # 40x36, a quarter
    # errors in the border of 4 pixels do not count, and those beside it do

    def spoilt(width):
        def enlarged(image):
            result = enlarge(image[None], 4)[0]
            result[:, :width] = 1 - result[:, :width]
            return result

        return evaluate_upscaling(Doing(enlarged, scale=4), images(shape=shape))["psnr"]

    assert spoilt(4) == row["psnr"]
    assert spoilt(5) != row["psnr"]


def test_luma_is_of_studio_range():
    assert float(luma(torch.zeros(3, 1, 1))) == pytest.approx(16)
    assert float(luma(torch.ones(3, 1, 1))) == pytest.approx(235, abs=1e-3)
    assert float(luma(torch.ones(1, 1, 1))) == pytest.approx(235)
    green = luma(torch.tensor([0.0, 1.0, 0.0])[:, None, None])
    assert float(green) == pytest.approx(16 + 128.553, abs=1e-3)


def test_a_folder_with_an_unreadable_image_is_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    assert len(list(read_images(str(tmp_path), 1, most=1))) == 1
    with pytest.raises(InputError, match=r"b\.png .* cannot be read"):
        list(read_images(str(tmp_path), 1))


def test_lpips_says_why_it_cannot_be_had(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    with pytest.raises(InputError, match="LPIPS cannot be measured here"):
        Quality(lpips=True)
