"""Inpainting: what is known stays as it is, what is filled has the distribution that the model knows."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image

from continuous_unet import ContinuousUNet2DModel, DiffusionSamplingPipeline, InpaintingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.tasks.facts import ConditionFacts, Facts
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


class Blocks:
    """A codec whose latents are means of two by two pixels."""

    channels = latent_channels = 1
    factor = 2

    def to(self, device):
        pass

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images, 2)

    def decode(self, latents):
        return latents.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize("kind", ["v_prediction", "flow_prediction"])
def test_a_model_of_latents_fills_every_latent_of_which_a_pixel_is_marked(kind):
    scheduler = training_scheduler(kind)
    unet = GaussianDenoiser(scheduler)
    unet.config.block_out_channels, unet.config.out_channels = (8,), 1
    latents, image = InpaintingPipeline(unet, scheduler, codec=Blocks()), torch.rand(3, 93, 65) / 3
    mask = torch.zeros(1, 93, 65)
    mask[:, 3:91, 5:] = 1
    how = {"num_inference_steps": 50, "jump_n_sample": 2, "output_type": "pt"}
    filled = latents(image, mask, generator=torch.Generator().manual_seed(0), **how).images[0]
    hole = (mask > 0.5).expand_as(image)
    assert torch.equal(filled[~hole], image[~hole])
    values = filled[hole] * 2 - 1
    assert float(values.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(values.std()) == pytest.approx(STD, rel=0.25)
    assert torch.equal(filled[:, 4:90:2, 6:64:2], filled[:, 5:90:2, 7:65:2]), "two pixels of one latent"


def conditional():
    """A model with two classes by name and one for any class."""
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "norm_num_groups": 4}
    unet = ContinuousUNet2DModel(**sizes, block_out_channels=(8,), num_class_embeds=3, mid_block_type=None)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet.eval(), DDPMScheduler(), Facts(conditions=ConditionFacts(("cat", "dog"), 2))


@pytest.mark.parametrize("colours", [1, 3])
def test_a_class_and_guidance_reach_every_evaluation(colours):
    """As many evaluations by hand give the same, also for a grey model that sees colours as a batch."""
    unet, scheduler, facts = conditional()
    image, mask = torch.rand(colours, 8, 12), torch.ones(1, 8, 12)
    how = {"num_inference_steps": 6, "jump_length": 2, "jump_n_sample": 2, "output_type": "pt"}

    def filled(model, **more):
        pipeline = InpaintingPipeline(model, scheduler, facts if more else None)
        return pipeline(image, mask, generator=torch.Generator().manual_seed(0), **how, **more).images

    class ByHand(ModelMixin):
        def __init__(self):
            super().__init__()
            self.nothing, self._config = torch.nn.Parameter(torch.zeros(1)), SimpleNamespace(**unet.config)
            self._config.num_class_embeds = None

        @property
        def config(self):
            return self._config

        def forward(self, sample, timestep):
            of_class = [unet(sample, timestep, torch.full((len(sample),), number)).sample for number in (2, 1)]
            return SimpleNamespace(sample=of_class[0] + 3 * (of_class[1] - of_class[0]))

    guided = filled(unet, class_labels="dog", guidance_scale=3.0)
    assert (guided - filled(ByHand())).abs().max() < 1e-4
    assert (guided - filled(unet, class_labels="cat", guidance_scale=3.0)).abs().max() > 1e-3
    assert (guided - filled(unet, class_labels="dog")).abs().max() > 1e-3
    with pytest.raises(InputError, match="class 'bird' is unknown"):
        filled(unet, class_labels="bird")
    with pytest.raises(InputError, match="trained without text"):
        filled(unet, prompt="a cat")


def test_a_conditional_model_from_the_verb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    DiffusionSamplingPipeline(*conditional()).save_pretrained("model")
    Image.new("L", (8, 8), 128).save("grey.png")
    Image.linear_gradient("L").resize((8, 8)).save("half.png")
    options = ["--model", "model", "--mask", "half.png", "--steps", "4", "--jump-length", "1", "--resamples", "1"]
    for name, more in (("any", []), ("dog", ["--class", "dog"]), ("guided", ["--class", "dog", "--guidance", "4"])):
        assert main(["inpaint", "grey.png", *options, *more, "--output", f"{name}.png"]) == 0
    pictures = {Image.open(f"{name}.png").tobytes() for name in ("any", "dog", "guided")}
    assert len(pictures) == 3


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
