"""Denoising: right where the answer is known in closed form, of any size and colour, saved and loaded."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from continuous_unet import ContinuousUNet2DModel, DenoisingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.images.photographs import read_photograph
from continuous_unet.images.tiling import Tiles
from continuous_unet.tasks.restoration import as_tensors
from tests.tasks.test_generation import MEAN, STD, GaussianDenoiser, training_scheduler

CASES = Path(__file__).parents[1] / "cases"


def gaussian(prediction_type="epsilon", num_train_timesteps=1000):
    """A pipeline with the best model of pixels that are independent and normal with MEAN and STD in [-1, 1]."""
    scheduler = training_scheduler(prediction_type, num_train_timesteps)
    unet = GaussianDenoiser(scheduler)
    unet.config.block_out_channels = (8,)
    pipeline = DenoisingPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def clean_and_noisy(sigma, shape=(1, 128, 128)):
    clean = (MEAN + STD * torch.randn(shape)) / 2 + 0.5
    return clean, clean + sigma / 255 * torch.randn(shape)


def posterior(noisy, sigma):
    """Mean and standard deviation of the clean pixels, in [0, 1]."""
    prior, noise = (STD / 2) ** 2, (sigma / 255) ** 2
    mean = (noisy * prior + (MEAN / 2 + 0.5) * noise) / (prior + noise)
    return mean, (prior * noise / (prior + noise)) ** 0.5


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_the_mean_of_a_known_distribution(prediction_type):
    _, noisy = clean_and_noisy(25.0)
    (restored,) = gaussian(prediction_type)(noisy, sigma=25.0, output_type="pt").images
    # the timestep nearest to the sigma is not quite it
    torch.testing.assert_close(restored, posterior(noisy, 25.0)[0].clamp(0, 1), rtol=0, atol=3e-3)


@pytest.mark.parametrize("kind", ["epsilon", "flow_prediction"])
def test_samples_of_a_known_distribution(kind):
    _, noisy = clean_and_noisy(50.0)
    generator = torch.Generator().manual_seed(0)
    options = {"mode": "sample", "num_inference_steps": 60, "generator": generator, "output_type": "pt"}
    output = gaussian(kind)(noisy, sigma=50.0, **options)
    mean, std = posterior(noisy, 50.0)
    difference = output.images[0] - mean
    assert float(difference.mean()) == pytest.approx(0.0, abs=0.005)
    assert float(difference.std()) == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_the_model_sees_the_variance_preserving_form(mode, monkeypatch):
    pipeline, (_, noisy) = gaussian(), clean_and_noisy(50.0, (1, 8, 8))
    real, seen = pipeline.unet.forward, []

    def forward(sample, timestep):
        seen.append((sample, int(timestep)))
        return real(sample, timestep)

    monkeypatch.setattr(pipeline.unet, "forward", forward)
    pipeline(noisy, sigma=50.0, mode=mode, num_inference_steps=4)
    sample, timestep = seen[0]
    alpha = float(pipeline.scheduler.alphas_cumprod[timestep])
    assert ((1 - alpha) / alpha) ** 0.5 == pytest.approx(100 / 255, rel=0.02)
    torch.testing.assert_close(sample, alpha**0.5 * (noisy[None] * 2 - 1))
    assert len(seen) == (1 if mode == "mean" else 4)


def test_the_sigma_is_estimated():
    ramp = torch.linspace(0.2, 0.8, 96)[None, :, None].expand(1, 96, 96)
    output = gaussian()(ramp + 20 / 255 * torch.randn(1, 96, 96), output_type="pt")
    assert output.sigmas == [pytest.approx(20.0, rel=0.08)]


def blind(channels=1, **options):
    unet = ContinuousUNet2DModel(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        norm_type="pixel",
        add_attention=False,
        patch_size=2,
    )
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return DenoisingPipeline(unet.eval(), sigma_max=55.0, **options)


def test_what_is_predicted_is_the_noise():
    pipeline, noisy = blind(), torch.rand(1, 24, 20)
    with torch.no_grad():
        noise = pipeline.unet(noisy[None] * 2 - 1, 0).sample[0]
    output = pipeline(noisy, output_type="pt")
    torch.testing.assert_close(output.images[0], (noisy - noise / 2).clamp(0, 1))
    assert output.sigmas == [None]
    assert float(noise.abs().mean()) > 0.01


def test_a_conditioned_model_is_told_the_sigma():
    pipeline, noisy = blind(sigma_conditioned=True), torch.rand(1, 8, 8)
    with torch.no_grad():
        noise = pipeline.unet(noisy[None] * 2 - 1, 17.5).sample[0]
    torch.testing.assert_close(pipeline(noisy, sigma=17.5, output_type="pt").images[0], (noisy - noise / 2).clamp(0, 1))
    assert not torch.equal(*(pipeline(noisy, sigma=s, output_type="pt").images for s in (5.0, 50.0)))


def test_colour_by_a_grey_model_is_channel_by_channel():
    pipeline, colour = blind(), torch.rand(3, 19, 33)
    together = pipeline(colour, output_type="pt").images[0]
    apart = torch.cat([pipeline(channel[None], output_type="pt").images[0] for channel in colour])
    torch.testing.assert_close(together, apart)


def test_grey_by_a_colour_model_stays_grey():
    grey = torch.rand(1, 16, 16)
    one = blind(3)(grey, output_type="pt").images[0]
    three = blind(3)
    assert one.shape == (1, 16, 16)
    torch.manual_seed(0)
    pipeline = three
    colour = pipeline.unet(grey[None].expand(1, 3, 16, 16) * 2 - 1, 0).sample.detach()
    expected = (grey - colour.mean(dim=1) / 2).clamp(0, 1)
    torch.testing.assert_close(pipeline(grey, output_type="pt").images[0], expected)


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (65, 64)])
def test_any_size_as_pil_image_too(size):
    for mode in ("L", "RGB"):
        image = Image.new(mode, size, "white")
        (restored,) = blind()(image, tiles=Tiles(32, 8)).images
        assert (restored.size, restored.mode) == (size, mode)


def test_saved_and_loaded(tmp_path):
    pipeline, image = blind(sigma_conditioned=True), torch.rand(1, 8, 8)
    pipeline.save_pretrained(tmp_path)
    again = DenoisingPipeline.from_pretrained(tmp_path)
    assert dict(again.config).items() >= {"sigma_max": 55.0, "sigma_conditioned": True}.items()
    options = {"sigma": 5.0, "output_type": "pt"}
    assert torch.equal(again(image, **options).images, pipeline(image, **options).images)


def test_arguments_that_cannot_be():
    image = torch.rand(1, 8, 8)
    for pipeline, options, message in (
        (blind(), {"mode": "sample"}, "needs a diffusion model"),
        (blind(), {"mode": "best"}, "'mean' or 'sample'"),
        (blind(), {"output_type": "gif"}, "'pil' or 'np' or 'pt'"),
        (gaussian(), {"sigma": 300}, "0 to 255"),
        (gaussian(), {"sigma": "some"}, "0 to 255"),
        (gaussian(num_train_timesteps=10), {"sigma": 200.0}, "more noise than the diffusion model knows"),
        (gaussian(), {"num_inference_steps": 0, "sigma": 5.0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline(image, **options)
    for wrong in (torch.rand(2, 8, 8), torch.full((1, 8, 8), float("nan")), "photo.png", torch.rand(1, 0, 8)):
        with pytest.raises(InputError, match="image"):
            blind()(wrong)


def test_pictures_are_read_as_files_are():
    """Upright, with the depth that they have; the same from a file, from memory and in a batch of the command line."""
    pipeline = blind()
    for name in ("g16.png", "float01.tif", "float_overshoot.tif", "or6.jpg", "la16.png"):
        with Image.open(CASES / name) as image:
            (tensor,) = as_tensors(image, torch.device("cpu"))
            (restored,) = pipeline(image).images
        photograph = read_photograph(CASES / name)
        if photograph.alpha is None:
            torch.testing.assert_close(tensor, photograph.tensor(), rtol=0, atol=1e-4)
        assert restored.size == (tensor.shape[2], tensor.shape[1])
        assert 0.3 < float(tensor.mean()) < 0.7


def test_whole_numbers_are_on_the_scale_of_their_type_or_refused():
    bytes_ = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    assert torch.equal(as_tensors(bytes_, torch.device("cpu"))[0], bytes_ / 255)
    for wrong in (bytes_.int(), bytes_.long(), bytes_.to(torch.int16)):
        with pytest.raises(InputError, match="expected floats"):
            blind()(wrong)
    beyond = torch.tensor([[[-0.2, 1.3]]])
    assert torch.equal(as_tensors(beyond, torch.device("cpu"))[0], beyond)
