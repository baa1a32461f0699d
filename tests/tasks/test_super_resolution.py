"""Super-resolution: the residual of the enlarged image, by one evaluation and by diffusion; colour; sizes; files."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.modeling_utils import ModelMixin

from continuous_unet import ContinuousUNet2DModel, SuperResolutionPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.process import process_of
from continuous_unet.images.resampling import enlarge
from continuous_unet.images.tiling import Tiles
from continuous_unet.tasks.upscale.pipeline import RESIDUAL_SCALE


def schedule(kind="v_prediction"):
    return DDPMScheduler(
        prediction_type=kind, rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )


class Knowing(ModelMixin):
    """Knows the residual: it is a fixed multiple of the enlarged image; predicts whatever the scheduler wants."""

    def __init__(self, scheduler, channels=1):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self.scheduler, self.channels, self.timesteps = scheduler, channels, []
        self._config = SimpleNamespace(in_channels=2 * channels, out_channels=channels, block_out_channels=(8, 8))

    @property
    def config(self):
        return self._config

    def forward(self, sample, timestep):
        self.timesteps.append(int(timestep))
        noisy, enlarged = sample.chunk(2, dim=1)
        residual = RESIDUAL_SCALE * 0.1 * enlarged
        if self.scheduler.config.prediction_type == "sample":
            return SimpleNamespace(sample=residual)
        alpha_bar = float(self.scheduler.alphas_cumprod[int(timestep)])
        alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        return SimpleNamespace(sample=alpha * (noisy - alpha * residual) / sigma - sigma * residual)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_what_the_model_knows_comes_out(kind, mode):
    scheduler, image = schedule(kind), torch.rand(1, 12, 10)
    unet = Knowing(scheduler)
    pipeline = SuperResolutionPipeline(unet, scheduler, scale=2)
    (restored,) = pipeline(
        image, mode=mode, num_inference_steps=8, generator=torch.Generator().manual_seed(0), output_type="pt"
    ).images
    enlarged = enlarge(image[None], 2)[0] * 2 - 1
    torch.testing.assert_close(restored, (1.1 * enlarged / 2 + 0.5).clamp(0, 1), rtol=0, atol=2e-3)
    assert unet.timesteps[0] == 999
    assert len(unet.timesteps) == (1 if mode == "mean" else 8)


def test_a_model_of_luma_leaves_the_chroma_alone():
    scheduler, image = schedule(), 0.3 + 0.4 * torch.rand(3, 12, 10)
    pipeline = SuperResolutionPipeline(Knowing(scheduler), scheduler, scale=3)
    (restored,) = pipeline(image, output_type="pt").images
    added = restored - enlarge(image[None], 3)[0]
    assert restored.shape == (3, 36, 30)
    torch.testing.assert_close(added[0], added[1])
    torch.testing.assert_close(added[0], added[2])
    assert float(added.abs().mean()) > 0.005


def test_grey_by_a_colour_model_stays_grey():
    scheduler, image = schedule(), torch.rand(1, 8, 8)
    grey, colour = (SuperResolutionPipeline(Knowing(scheduler, c), scheduler) for c in (1, 3))
    torch.testing.assert_close(grey(image, output_type="pt").images, colour(image, output_type="pt").images)


def new(scale, **options):
    """An untrained model whose last layer is zero: it adds nothing."""
    unet = ContinuousUNet2DModel(
        in_channels=2,
        out_channels=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        norm_type="pixel",
        add_attention=False,
        patch_size=scale,
    )
    return SuperResolutionPipeline(unet.eval(), schedule(), scale=scale, **options)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (9, 31), (70, 45)])
def test_a_new_model_is_bicubic_interpolation_of_any_size(scale, size):
    image = torch.rand(1, *size)
    (restored,) = new(scale)(image, tiles=Tiles(32, 16), output_type="pt").images
    expected = enlarge(image[None], scale)[0].clamp(0, 1)
    assert restored.shape == expected.shape
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-5)


def test_saved_and_loaded(tmp_path):
    pipeline = new(4, can_sample=False)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight)
    pipeline.save_pretrained(tmp_path)
    again = SuperResolutionPipeline.from_pretrained(tmp_path)
    assert dict(again.config).items() >= {"scale": 4, "can_sample": False}.items()
    image = torch.rand(3, 8, 6)
    assert torch.equal(again(image, output_type="pt").images, pipeline(image, output_type="pt").images)
    with pytest.raises(InputError, match="for mode 'mean' only"):
        again(image, mode="sample")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_predictions_are_understood(kind):
    scheduler = DDPMScheduler(prediction_type=kind)
    image, eps, time = torch.rand(1, 1, 4, 4), torch.randn(1, 1, 4, 4), torch.tensor([300])
    noisy = scheduler.add_noise(image, eps, time)
    said = {"epsilon": eps, "sample": image, "v_prediction": scheduler.get_velocity(image, eps, time)}[kind]
    torch.testing.assert_close(process_of(scheduler).to_clean(said, noisy, 300), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(process_of(scheduler).to_noise(said, noisy, 300), eps, rtol=0, atol=1e-5)
