"""The literature's conventions, on models whose result is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.evaluation.quality.restoration import (
    GaussianNoise,
    Quality,
    Reduction,
    luma,
    measure,
    read_images,
)
from continuous_unet.images.resampling import compressed, enlarge, to_8_bit
from tests.evaluation.ssim_of_scikit_image import pairs


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
    one, again = (measure(GaussianNoise(50.0), pipeline, images()) for _ in range(2))
    assert {k: v for k, v in one.items() if "second" not in k} == {k: v for k, v in again.items() if "second" not in k}
    assert one["input_psnr"] == pytest.approx(20 * np.log10(255 / 50), abs=0.2)
    assert one["psnr"] > one["input_psnr"] + 0.5  # a file would be clipped: half of the pixels are near enough
    assert min(float(image.min()) for image in pipeline.seen) < -0.1
    assert one["images"] == 3
    other = measure(GaussianNoise(50.0), pipeline, images(), seed=1)
    assert other["psnr"] != one["psnr"]
    # an image's noise does not depend on the images before it
    last = measure(GaussianNoise(50.0), pipeline, images()[2:])
    assert torch.equal(pipeline.seen[2], pipeline.seen[-1])
    assert last["images"] == 1


def test_results_are_rounded_as_in_a_file():
    clean = images()
    names = iter([image for _, image in clean])
    nearly = Doing(lambda image: next(names) + 0.4 / 255)
    assert measure(GaussianNoise(25.0), nearly, clean)["psnr"] == float("inf")


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
    row = measure(Reduction(4), bicubic, images(shape=shape))
    assert row["psnr"] == row["input_psnr"]
    assert bicubic.seen[0].shape == (3, 10, 9)  # 40x36, a quarter
    # errors in the border of 4 pixels do not count, and those beside it do

    def damaged(width):
        def enlarged(image):
            result = enlarge(image[None], 4)[0]
            result[:, :width] = 1 - result[:, :width]
            return result

        return measure(Reduction(4), Doing(enlarged, scale=4), images(shape=shape))["psnr"]

    assert damaged(4) == row["psnr"]
    assert damaged(5) != row["psnr"]


def test_jpeg_compresses_the_small_image_and_the_start_is_its_enlargement():
    smooth = [("a.png", to_8_bit(torch.linspace(0, 1, 64).expand(3, 48, 64).contiguous()))]
    seen = []
    bicubic = Doing(lambda image: seen.append(image) or enlarge(image[None], 2)[0], scale=2)
    row = measure(Reduction(2, jpeg=30), bicubic, smooth)
    assert (row["scale"], row["jpeg"]) == (2, 30)
    assert row["psnr"] == row["input_psnr"]
    assert row["psnr"] < measure(Reduction(2), bicubic, smooth)["psnr"] - 3
    assert torch.equal(seen[0], compressed(seen[1], 30))
    assert compressed(torch.zeros(1, 9, 7), 75).shape == (1, 9, 7)


SCIKIT_IMAGE = (0.9212935, 0.3596136, 0.0802602, 0.4483396)
"""Printed by ssim_of_scikit_image.py, version 0.26.0."""


def test_ssim_is_that_of_scikit_image():
    """Only windows that lie wholly inside the image count; the third image has a single one."""
    for (clean, noisy), expected in zip(pairs(), SCIKIT_IMAGE, strict=True):
        quality = Quality()
        quality.add(torch.from_numpy(noisy)[None], torch.from_numpy(clean)[None])
        assert quality.means()["ssim"] == pytest.approx(expected, abs=2e-7)


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
