"""The sampling pipeline with every scheduler: right on a problem with a known answer, and image k from seed k alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, UNet2DModel
from diffusers.models.modeling_utils import ModelMixin

from continuous_unet import ContinuousUNet2DModel, DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import StopRequest
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.samplers import FLOW_SCHEDULERS, SCHEDULERS, make_scheduler
from continuous_unet.tasks.generate.pipeline import generate, generate_share

MEAN, STD = 0.3, 0.2


class GaussianDenoiser(ModelMixin):
    """The best possible denoiser where every pixel of the data is normal with MEAN and STD, in closed form."""

    def __init__(self, scheduler):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self.scheduler = scheduler
        self._config = SimpleNamespace(
            sample_size=16, in_channels=1, out_channels=1, num_class_embeds=None, class_embed_type=None
        )

    @property
    def config(self):
        return self._config

    def forward(self, sample, timestep, class_labels=None):
        if process_of(self.scheduler).name == "flow":
            t = timestep / 1000
            centred = (sample - (1 - t) * MEAN) / ((1 - t) ** 2 * STD**2 + t**2)
            return SimpleNamespace(sample=t * centred - MEAN - (1 - t) * STD**2 * centred)
        # fractional timesteps (Euler's) interpolate the noise level as the scheduler does
        alphas = self.scheduler.alphas_cumprod
        sigmas = ((1 - alphas) / alphas).sqrt()
        low = int(timestep)
        sigma = torch.lerp(sigmas[low], sigmas[min(low + 1, len(alphas) - 1)], float(timestep) - low)
        alpha = 1 / (1 + sigma**2)
        noisy_variance = alpha * STD**2 + 1 - alpha
        noise = (1 - alpha).sqrt() * (sample - alpha.sqrt() * MEAN) / noisy_variance
        clean = (sample - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        kind = self.scheduler.config.prediction_type
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        return SimpleNamespace(sample={"epsilon": noise, "sample": clean, "v_prediction": velocity}[kind])


SAMPLERS = [(name, kind) for name in SCHEDULERS for kind in ("epsilon", "v_prediction", "sample")]
SAMPLERS += [(name, "flow_prediction") for name in FLOW_SCHEDULERS]


def training_scheduler(prediction_type, num_train_timesteps=1000):
    if prediction_type == "flow_prediction":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps)
    return DDPMScheduler(num_train_timesteps, prediction_type=prediction_type)


@pytest.mark.parametrize(("name", "prediction_type"), SAMPLERS)
def test_samples_of_a_known_distribution(name, prediction_type):
    training = training_scheduler(prediction_type)
    pipeline = DiffusionSamplingPipeline(GaussianDenoiser(training), process_of(training).make_sampler(name))
    pipeline.set_progress_bar_config(disable=True)
    steps = 100 if name in ("dpm++", "unipc", "heun") else 250  # first order: more steps for the same error
    generator = torch.Generator().manual_seed(0)
    images = pipeline(64, generator, steps, output_type="pt").images * 2 - 1
    # 16,384 pixels: the mean is known to 0.002, the spread to 0.0011; the rest is the discretisation
    assert float(images.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(images.std()) == pytest.approx(STD, abs=0.015)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_image_k_depends_on_seed_k_alone(unet, name):
    pipeline = DiffusionSamplingPipeline(unet, make_scheduler(name, DDPMScheduler().config))
    pipeline.set_progress_bar_config(disable=True)

    def images(batch_size, num=5, **options):
        return torch.cat(list(generate(pipeline, num, seed=3, num_inference_steps=5, batch_size=batch_size, **options)))

    together = images(5)
    torch.testing.assert_close(images(2), together, atol=1e-4, rtol=0)
    torch.testing.assert_close(images(1), together, atol=1e-4, rtol=0)
    torch.testing.assert_close(images(2, num=2, first=3), together[3:], atol=1e-4, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=0.01)
    other = torch.cat(list(generate(pipeline, 1, seed=4, num_inference_steps=5)))
    assert not torch.allclose(other[0], together[0], atol=0.01)


def test_eta_reaches_ddim(unet):
    pipeline = DiffusionSamplingPipeline(unet, make_scheduler("ddim", DDPMScheduler().config))
    pipeline.set_progress_bar_config(disable=True)

    def image(eta):
        return pipeline(1, torch.Generator().manual_seed(0), 5, eta=eta, output_type="pt").images

    assert torch.equal(image(0.0), image(0.0))
    assert not torch.allclose(image(1.0), image(0.0))


def test_output_types(unet):
    pipeline = DiffusionSamplingPipeline(unet, make_scheduler("ddim", DDPMScheduler().config))
    pipeline.set_progress_bar_config(disable=True)
    results = {
        kind: pipeline(2, torch.Generator().manual_seed(0), 2, output_type=kind).images for kind in ("pt", "np", "pil")
    }
    assert results["pt"].shape == (2, 1, 8, 8)
    assert 0 <= float(results["pt"].min()) <= float(results["pt"].max()) <= 1
    np.testing.assert_allclose(results["np"], results["pt"].permute(0, 2, 3, 1))
    assert results["pil"][0].mode == "L"
    np.testing.assert_allclose(np.asarray(results["pil"][1]) / 255, results["np"][1, :, :, 0], atol=0.003)
    assert isinstance(pipeline(1, num_inference_steps=1, return_dict=False), tuple)


def test_class_labels(unet):
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16)}
    model = ContinuousUNet2DModel(**sizes, norm_num_groups=4, num_class_embeds=3)
    torch.nn.init.normal_(model.conv_out.weight)
    torch.nn.init.normal_(model.class_embedding.weight, std=3)
    for name, parameter in model.named_parameters():
        if "target" in name:
            torch.nn.init.normal_(parameter)
    pipeline = DiffusionSamplingPipeline(model, make_scheduler("ddim", DDPMScheduler().config))
    pipeline.set_progress_bar_config(disable=True)

    def image(label):
        return pipeline(1, torch.Generator().manual_seed(0), 3, class_labels=label, output_type="pt").images

    assert not torch.allclose(image(0), image(1))
    torch.testing.assert_close(image(torch.tensor([1])), image(1))
    for wrong, message in ((None, "0 to 2"), (3, "0 to 2"), (torch.tensor([0, 1]), "one label or one per image")):
        with pytest.raises(InputError, match=message):
            image(wrong)
    with pytest.raises(InputError, match="trained without classes"):
        DiffusionSamplingPipeline(unet, DDPMScheduler())(1, class_labels=0)


def test_wrong_arguments(unet):
    pipeline = DiffusionSamplingPipeline(unet, DDPMScheduler())
    with pytest.raises(InputError, match="output_type"):
        pipeline(output_type="jpeg")
    with pytest.raises(InputError, match="one per image"):
        pipeline(3, [torch.Generator()])
    with pytest.raises(InputError, match="ddim, ddpm"):
        make_scheduler("magic", {})


def test_more_steps_than_the_schedule_has(unet):
    with pytest.raises(InputError, match="num_inference_steps=2000 cannot be used"):
        DiffusionSamplingPipeline(unet, make_scheduler("ddim", DDPMScheduler().config))(num_inference_steps=2000)


def test_values_that_are_not_finite_are_no_black_pixels(unet):
    torch.nn.init.constant_(unet.conv_out.bias, float("nan"))
    pipeline = DiffusionSamplingPipeline(unet, make_scheduler("ddim", DDPMScheduler().config))
    pipeline.set_progress_bar_config(disable=True)
    with pytest.raises(InputError, match="not finite"):
        pipeline(num_inference_steps=2)


def test_several_processes_make_what_one_makes(unet):
    """Bit for bit, because a batch is made by one process, and has the same images whoever makes it."""
    pipeline = DiffusionSamplingPipeline(unet, make_scheduler("ddim", DDPMScheduler().config))
    pipeline.set_progress_bar_config(disable=True)
    jobs = [({}, range(0, 2)), ({}, range(2, 4)), ({}, range(4, 5))]

    def share(rank, count):
        processes = Processes()
        processes.rank, processes.count, processes.agreed = rank, count, lambda stop: stop.signal
        options = {"processes": processes, "stop": StopRequest(), "seed": 3, "num_inference_steps": 2}
        return {
            k: image
            for numbers, images in generate_share(pipeline, jobs, **options)
            for k, image in zip(numbers, images)
        }

    alone, halves = share(0, 1), [share(rank, 2) for rank in range(2)]
    assert sorted([*halves[0], *halves[1]]) == sorted(alone) == list(range(5))
    assert all(torch.equal(image, alone[k]) for half in halves for k, image in half.items())


def test_half_precision_weights(unet):
    pipeline = DiffusionSamplingPipeline(unet.to(torch.bfloat16), make_scheduler("ddim", DDPMScheduler().config))
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(1, num_inference_steps=2, output_type="pt").images.dtype == torch.float32


def test_diffusers_own_schedulers_can_be_swapped_in(unet):
    from diffusers import HeunDiscreteScheduler

    pipeline = DiffusionSamplingPipeline(unet, DDPMScheduler())
    pipeline.scheduler = HeunDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(1, num_inference_steps=3).images[0].size == (8, 8)


def test_a_saved_pipeline_loads_with_diffusers_and_with_ours(unet, tmp_path):
    DiffusionSamplingPipeline(unet, DDPMScheduler(prediction_type="v_prediction")).save_pretrained(tmp_path)
    for loader in (DiffusionPipeline, DiffusionSamplingPipeline):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded.unet) is ContinuousUNet2DModel
        assert loaded.scheduler.config.prediction_type == "v_prediction"
    assert type(loaded) is DiffusionSamplingPipeline


def test_diffusers_own_pipeline_samples_a_flow_matching_model(unet, tmp_path):
    DiffusionSamplingPipeline(unet, FlowMatchEulerDiscreteScheduler(shift=2.0)).save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded) is DDPMPipeline
    assert process_of(loaded.scheduler).shift == 2
    loaded.set_progress_bar_config(disable=True)
    assert loaded(num_inference_steps=2).images[0].size == (8, 8)


def test_the_discrete_u_net_can_be_sampled_from():
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 8}
    unet = UNet2DModel(sample_size=8, in_channels=3, out_channels=3, block_out_channels=(16,), **blocks)
    pipeline = DiffusionSamplingPipeline(unet, make_scheduler("unipc", DDPMScheduler().config))
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(1, num_inference_steps=3).images[0].mode == "RGB"


@pytest.mark.parametrize(
    "name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"]
)
def test_flow_matching_ends_at_the_clean_image_of_a_model_that_knows_it(name):
    """A model of one image predicts `noise - image` exactly, so that every path ends there."""
    import diffusers

    class Knowing(GaussianDenoiser):
        def forward(self, sample, timestep, class_labels=None):
            return SimpleNamespace(sample=(sample - MEAN) / (timestep / 1000))

    pipeline = DiffusionSamplingPipeline(Knowing(None), getattr(diffusers, name)())
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(2, torch.Generator().manual_seed(0), 5, output_type="pt").images
    torch.testing.assert_close(images, torch.full_like(images, MEAN / 2 + 0.5), rtol=0, atol=1e-4)


def test_a_model_that_takes_a_condition_is_not_sampled():
    sizes = {"sample_size": 8, "block_out_channels": (8, 16), "norm_num_groups": 4}
    for taken, given in ((4, 1), (2, 1), (1, 2)):
        unet = ContinuousUNet2DModel(in_channels=taken, out_channels=given, **sizes)
        with pytest.raises(InputError, match=f"takes {taken} channels and gives {given}"):
            DiffusionSamplingPipeline(unet, DDPMScheduler())(num_inference_steps=2)
    learned = DiffusionSamplingPipeline(unet, DDPMScheduler(variance_type="learned_range"))
    learned.set_progress_bar_config(disable=True)
    assert learned(1, num_inference_steps=2, output_type="pt").images.shape == (1, 1, 8, 8)
