"""Inpainting: what is known stays as it is, what is filled has the distribution that the model knows."""

import pytest
import torch

from continuous_unet import InpaintingPipeline
from continuous_unet.base.errors import InputError
from tests.tasks.test_generation import MEAN, STD, GaussianDenoiser, training_scheduler


def pipeline(prediction_type="epsilon"):
    scheduler = training_scheduler(prediction_type)
    unet = GaussianDenoiser(scheduler)
    unet.config.block_out_channels = (8,)
    return InpaintingPipeline(unet, scheduler)


def fill(image, mask, kind="epsilon", **options):
    options = {"num_inference_steps": 50, "jump_length": 5, "jump_n_sample": 2, "output_type": "pt", **options}
    return pipeline(kind)(image, mask, generator=torch.Generator().manual_seed(0), **options).images


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_holes_get_what_the_model_knows_and_the_rest_stays(kind):
    image = torch.rand(1, 64, 48) / 3  # no sums of powers of two, which would survive being scaled and scaled back
    mask = torch.zeros(1, 64, 48)
    mask[:, 8:56, 8:40] = 1
    filled = fill(image, mask, kind)[0]
    hole = mask > 0.5
    assert torch.equal(filled[~hole], image[~hole])
    values = filled[hole] * 2 - 1
    assert float(values.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(values.std()) == pytest.approx(STD, rel=0.25)  # RePaint's steps are DDIM's, and coarse


def test_a_mask_of_nothing_changes_nothing():
    image = torch.rand(3, 8, 8)
    assert torch.equal(fill(image, torch.zeros(1, 8, 8))[0], image)


def test_one_mask_for_all_and_one_each():
    images, mask = torch.rand(2, 1, 8, 8), torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    assert fill(images, mask).shape == (2, 1, 8, 8)
    both = fill(images, torch.stack([mask, 1 - mask]))
    assert torch.equal(both[1, :, :4], images[1, :, :4])
    assert not torch.equal(both[1, :, 4:], images[1, :, 4:])


def test_arguments_that_cannot_be():
    image = torch.rand(1, 8, 8)
    for mask, options, message in (
        (torch.zeros(1, 8, 9), {}, "the mask is 9x8 and the image 8x8"),
        (torch.zeros(3, 1, 8, 8), {}, "3 masks were given for 1 images"),
        (torch.zeros(1, 8, 8), {"jump_length": 50}, "must be more than jump_length"),
        (torch.zeros(1, 8, 8), {"jump_n_sample": 0}, "at least 1"),
        (torch.zeros(1, 8, 8), {"num_inference_steps": 2000}, "at most 1000"),
    ):
        with pytest.raises(InputError, match=message):
            fill(image, mask, **options)
