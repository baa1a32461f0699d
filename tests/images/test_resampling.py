"""Bicubic resampling is MATLAB's, by its published figures and by a naive twin."""

from pathlib import Path

import numpy as np
import pytest
import torch

from continuous_unet.evaluation.quality.restoration import Quality, luma, read_images
from continuous_unet.images.resampling import degraded, resize, to_8_bit

SET5 = Path(__file__).parents[3] / "shared" / "data" / "restoration" / "Set5"


def kernel(x):
    """Keys' cubic kernel, a = -0.5."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0))


def imresize(values, size):
    """MATLAB's `imresize` of a vector, written out: the kernel is as wide as the step when it shrinks."""
    step = len(values) / size
    width = max(step, 1.0)
    result = []
    for i in range(size):
        centre = (i + 0.5) * step - 0.5
        near = [j for j in range(len(values)) if abs(centre - j) < 2 * width]
        weights = np.array([kernel((centre - j) / width) for j in near])
        result.append(float((weights * values[near]).sum() / weights.sum()))
    return np.array(result)


@pytest.mark.parametrize("size", [6, 8, 12, 48, 72])
def test_it_is_the_kernel_of_matlab(size):
    values = np.random.default_rng(0).random(24)
    image = torch.tensor(np.outer(values, np.ones(24)), dtype=torch.float32)[None, None]
    found = resize(image, size, 24)[0, 0, :, 3].numpy()
    inner = slice(size // 6, -(size // 6))  # MATLAB reflects at the border, torch leaves weights out
    np.testing.assert_allclose(found[inner], imresize(values, size)[inner], atol=1e-5)


@pytest.mark.skipif(not SET5.is_dir(), reason=f"needs Set5 in {SET5}")
@pytest.mark.parametrize(("scale", "published"), [(2, 33.66), (4, 28.42)])
def test_the_published_figures_of_set5(scale, published):
    quality = Quality()
    for _, image in read_images(str(SET5), 3):
        height, width = (length // scale * scale for length in image.shape[1:])
        clean = image[:, :height, :width]
        enlarged = to_8_bit(degraded(clean[None], scale)[1][0])
        inner = slice(scale, -scale)
        quality.add(luma(enlarged)[:, inner, inner], luma(clean)[:, inner, inner])
    assert quality.means()["psnr"] == pytest.approx(published, abs=0.025)  # Y of 8-bit RGB, theirs 8-bit Y


def test_small_images_are_8_bit():
    small, enlarged = degraded(torch.rand(1, 3, 24, 16), 4)
    assert small.shape == (1, 3, 6, 4)
    assert enlarged.shape == (1, 3, 24, 16)
    torch.testing.assert_close((small * 255).round() / 255, small, rtol=0, atol=1e-7)
    assert 0 <= float(small.min()) <= float(small.max()) <= 1
