"""Every task through the one training loop: exact resumption, what is validated, what is saved, what is learned."""

import math
import tarfile
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from continuous_unet.base.errors import InputError
from continuous_unet.codecs.autoencoder import load_autoencoder
from continuous_unet.data import open_dataset
from continuous_unet.diffusion.draws import Stream, uniform
from continuous_unet.images.resampling import compressed, enlarge, resize, to_8_bit
from continuous_unet.tasks.base import StepContext
from continuous_unet.tasks.facts import ConditionFacts
from continuous_unet.tasks.generate.training import GenerateTask
from continuous_unet.tasks.loading import load_pipeline, load_restorer
from continuous_unet.tasks.plan.pipeline import load_planner
from continuous_unet.tasks.registry import TRAINED
from continuous_unet.training import TrainConfig, train
from continuous_unet.training.config import recorded
from continuous_unet.training.run import make_task
from tests.tasks.planning import episodes
from tests.training.runs import records

RESTORATION = {
    "denoise": ({"task": "denoise"}, "denoise"),
    "denoise, told the sigma": ({"task": "denoise", "sigma": "25", "sigma_conditioned": True}, "denoise"),
    "upscale": ({"task": "upscale", "scale": 2}, "upscale"),
    "upscale, x4, image": (
        {"task": "upscale", "scale": 4, "objective": "sample", "regression_share": 1.0, "loss": "squared"},
        "upscale",
    ),
    "upscale by a discrete U-Net": (
        {
            "task": "upscale",
            "preset": "ddpm_small",
            "model_options": {"block_out_channels": [8, 8], "norm_num_groups": 4, "layers_per_block": 1},
        },
        "upscale",
    ),
}
"""Every task but generation, which the other tests of training are about, and the verb that its models are for."""


CODECS = {
    "codec": {"factor": 2, "latent_channels": 2, "widths": [4], "blocks": [0, 1]},
    "codec, kl": {"autoencoder": "kl", "factor": 4, "latent_channels": 3, "widths": [8, 8, 16], "loss": "squared"},
}
"""The autoencoders of `--task codec`."""


def codec(tiny, kind="codec", **changes):
    """An autoencoder of a few hundred parameters."""
    options = {"task": "codec", "preset": "small", "model_options": {}, "channels": 1}
    return tiny(**{**options, **CODECS[kind], **changes})


def restoration(tiny, **changes):
    """Patches of shapes, from a restorer of a few thousand parameters."""
    options = {"preset": "restorer", "model_options": {"block_out_channels": [8], "norm_num_groups": 4}}
    return tiny(**{**options, "image_size": 16, "channels": 1, **changes})


def test_every_task_is_here():
    assert {options["task"] for options, _ in RESTORATION.values()} == set(TRAINED) - {
        "generate",
        "codec",
        "distill",
        "plan",
        "video",
    }


def train_whole_and_in_parts(make, tiny, tmp_path, **options):
    """Trains a run at once, and in two parts, and checks that they are the same; returns the result of the first."""
    # a constant rate, so that the first half does not depend on the number of steps
    options = {**options, "lr_schedule": "constant", "sample_every": 6}
    whole = train(make(tiny, **options, output=str(tmp_path / "whole")))
    part = make(tiny, **options, steps=3, output=str(tmp_path / "part"))
    train(part)
    train(part.replaced(steps=6), resume=True)
    for name in ("model", "ema", "optimizer"):
        files = [
            load_file(tmp_path / run / "checkpoints" / "step-00000006" / f"{name}.safetensors")
            for run in ("whole", "part")
        ]
        assert files[0].keys() == files[1].keys()
        assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])
    found = [r for r in records(tmp_path / "whole") if "validation_loss" in r]
    assert [r["step"] for r in found] == [3, 6]
    assert (tmp_path / "whole" / "samples" / "step-00000006.png").is_file()
    assert whole.validation_loss is not None


@pytest.mark.parametrize("kind", RESTORATION)
def test_a_run_and_its_resumption(kind, tiny, tmp_path):
    options, verb = RESTORATION[kind]
    train_whole_and_in_parts(restoration, tiny, tmp_path, **options)
    assert f"cunet {verb} " in (tmp_path / "whole" / "report.md").read_text()
    pipeline = load_restorer(tmp_path / "whole", verb)
    assert pipeline.channels == 1
    with pytest.raises(InputError, match=f"trained for `cunet {verb}`"):
        load_pipeline(tmp_path / "whole")
    other = "upscale" if verb == "denoise" else "denoise"
    for wrong in (other, "inpaint"):
        with pytest.raises(InputError, match="expected a model of cunet train --task"):
            load_restorer(tmp_path / "whole", wrong)


PLANS = {
    "actions": {"history": 2},
    "trajectory": {"goal_dropout": 0.5, "process": "flow"},
}
"""What planners learn, by `--learn`."""


def planner(tiny, **changes):
    """A planner of a few thousand parameters."""
    options = {"image_size": None, "random_flip": False, "num_validation": 1, "horizon": 8}
    return tiny(task="plan", **{**options, **changes})


@pytest.mark.parametrize("learn", PLANS)
def test_a_planner_and_its_resumption(learn, tiny, tmp_path):
    data = episodes(tmp_path / "episodes.npz")
    train_whole_and_in_parts(planner, tiny, tmp_path, learn=learn, data=data, **PLANS[learn])
    found = load_planner(tmp_path / "whole")
    assert found.plan.learned == learn
    assert found.plan.num_observed == (8 if learn == "actions" else 0)
    assert found.plan.scaling.low[-1] == found.plan.scaling.high[-1] == 3  # a constant action
    assert "cunet plan " in (tmp_path / "whole" / "report.md").read_text()
    with pytest.raises(InputError, match="makes plans"):
        load_pipeline(tmp_path / "whole")
    again = planner(tiny, learn=learn, data=data, **{**PLANS[learn], "horizon": 16}, output=str(tmp_path / "other"))
    with pytest.raises(InputError, match="makes other plans"):
        train(again.replaced(start_from=str(tmp_path / "whole"), model_options={}, preset="small"))
    with pytest.raises(InputError, match="episodes"):
        train(planner(tiny, learn=learn, data="digits", output=str(tmp_path / "images")))
    with pytest.raises(InputError, match="shorter than the horizon of 16"):
        train(again.replaced(data=episodes(tmp_path / "short.npz", (20, 9))))


@pytest.mark.parametrize("kind", CODECS)
def test_a_codec_and_its_resumption(kind, tiny, tmp_path):
    train_whole_and_in_parts(codec, tiny, tmp_path, kind=kind)
    found = load_autoencoder(str(tmp_path / "whole"))
    options = CODECS[kind]
    assert (found.channels, found.factor, found.latent_channels) == (1, options["factor"], options["latent_channels"])
    assert not any("quarter" in name for record in records(tmp_path / "whole") for name in record)
    assert "--codec" in (tmp_path / "whole" / "report.md").read_text()
    with pytest.raises(InputError, match="holds a codec, and no model of images"):
        load_pipeline(tmp_path / "whole")
    onwards = codec(tiny, kind, output=str(tmp_path / "onwards"), start_from=str(tmp_path / "whole"), steps=1)
    assert train(onwards).validation_loss == pytest.approx(records(tmp_path / "whole")[-1]["validation_loss"], rel=0.05)
    with pytest.raises(InputError, match="give the same options"):
        train(onwards.replaced(factor=8, widths=[8], output=str(tmp_path / "other")))


def test_an_autoencoder_learns_and_its_latents_stay_bounded(tiny, tmp_path):
    """Noise in the latents makes them larger than it, and the divergence from the standard normal keeps them small."""
    options = {"latent_channels": 4, "widths": [8], "steps": 120, "learning_rate": 1e-2, "batch_size": 8, "ema": False}
    train(codec(tiny, **options, validate_every=120, sample_every=120, num_validation=16, lr_warmup_steps=10))
    (last,) = (r for r in records(tmp_path / "run") if "validation_psnr" in r)
    assert last["validation_psnr"] > 18
    found = load_autoencoder(str(tmp_path / "run"))
    images = torch.stack([item["image"] for item in islice(open_dataset("shapes", image_size=8, channels=1), 32)])
    assert 0.2 < float(found.encode(images).std()) < 3


def test_an_autoencoder_loses_what_its_noise_hides_and_its_divergence(tiny):
    learning = make_task(codec(tiny, latent_noise=0.5, kl_weight=0.1).validate())
    clean, noise = torch.rand(3, 1, 8, 8) * 2 - 1, torch.randn(3, 1, 8, 8)
    model = learning.new_model("small", {"in_channels": 1, "sample_size": 8}, {})
    latents = model.network.encode(clean).latents
    context = step(learning, model, clean, noise, torch.zeros(3))
    error = ((model.network.decode(latents).sample - clean) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(learning.error(context), error)
    hidden = latents + 0.5 * noise.flatten(1)[:, :32].reshape(latents.shape)
    expected = (model.network.decode(hidden).sample - clean).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(learning.loss(context), expected + 0.05 * (latents**2).mean(dim=(1, 2, 3)))


def test_a_stream_of_photographs(tiny, tmp_path):
    """Nothing can be held out of it; the picture of the progress shows its first images."""
    pytest.importorskip("webdataset")
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as shard:
        for i in range(6):
            Image.effect_noise((24, 20), 50).save(tmp_path / f"{i}.png")
            shard.add(tmp_path / f"{i}.png", f"{i}.png")
    train(restoration(tiny, task="denoise", data=str(tmp_path / "shards"), num_validation=0, steps=2, sample_every=2))
    assert Image.open(tmp_path / "run" / "samples" / "step-00000002.png").width > 3 * 16


def test_a_denoiser_learns(tiny, tmp_path):
    """Of heavy noise on drawn shapes a hundred small steps take at least 3 dB."""
    options = {"task": "denoise", "sigma": "50", "steps": 100, "learning_rate": 8e-3, "ema": False}
    model = {"block_out_channels": [16], "norm_num_groups": 4}
    train(restoration(tiny, **options, model_options=model, validate_every=100, num_validation=16, batch_size=8))
    (last,) = (r for r in records(tmp_path / "run") if "validation_psnr" in r)
    noise = 50 * 2 / 255
    assert last["validation_psnr"] > 10 * torch.tensor(4 / noise**2).log10() + 3
    shown = f"{last['validation_psnr']:.2f} dB (degraded images: {last['degraded_psnr']:.2f} dB)"
    assert shown in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize(("rate", "warns"), [(0.5, True), (8e-3, False)])
def test_a_denoiser_says_if_it_makes_images_no_better(rate, warns, tiny):
    options = {"task": "denoise", "sigma": "50", "steps": 30, "learning_rate": rate, "ema": False, "batch_size": 8}
    often = {"lr_warmup_steps": 1, "num_validation": 16, "validate_every": 30, "sample_every": 30}
    config = restoration(tiny, **options, **often)
    result = train(config)
    assert (result.validation_loss >= result.degraded_loss) is warns
    assert any("are no better than the degraded ones" in note for note in result.notes()) is warns
    again = train(config, resume=True)  # it has nothing left to train
    assert again.warnings() == result.warnings()
    assert replace(result, stopped_by=15, validation_loss=9.0).warnings() == []


def test_flat_images_do_not_make_an_upscaler_look_useless(tiny, tmp_path):
    """They are enlarged exactly without a model, so that any model makes them a little worse."""
    for i in range(9):
        image = Image.new("L", (16, 16), 20 * i) if i % 3 else Image.effect_noise((16, 16), 60)
        image.save(tmp_path / f"{i}.png")
    options = {"task": "upscale", "scale": 2, "steps": 1, "num_validation": 6, "learning_rate": 1e-9}
    result = train(restoration(tiny, **options, data=str(tmp_path)))
    assert result.degraded_psnr < 60
    assert replace(result, validation_loss=0.9 * result.degraded_loss).warnings() == []


def task(tiny, **options):
    return make_task(restoration(tiny, **options).validate())


def step(learning, model, clean, noise, times):
    return StepContext(model, learning.process, clean, noise, times)


class Told:
    """A model that says what it is told and remembers it."""

    def __init__(self, answer):
        self.answer, self.dtype, self.calls = answer, torch.float32, []

    def __call__(self, sample, timestep):
        self.calls.append((sample, torch.as_tensor(timestep)))
        return SimpleNamespace(sample=self.answer(sample))


def test_generation_errors_are_per_image_in_float32_and_weighted_in_training_only(tiny):
    learning = make_task(tiny(min_snr_gamma=5.0).validate())
    clean, noise, times = torch.rand(4, 1, 4, 4), torch.randn(4, 1, 4, 4), torch.tensor([0, 100, 500, 998])

    def model(x, t):
        return SimpleNamespace(sample=noise.bfloat16() + 1)

    context = step(learning, model, clean, noise, times)
    error = learning.error(context)
    assert error.dtype == torch.float32
    torch.testing.assert_close(error, torch.ones(4), atol=0.02, rtol=0)
    weight = learning.process.add_noise(clean, noise, times).weight
    assert weight[0] < 0.1 * weight[-1]
    assert torch.equal(learning.loss(context), error * weight)


@pytest.mark.parametrize("conditioned", [False, True])
def test_denoising_noise_is_of_every_strength(tiny, conditioned):
    learning = task(tiny, task="denoise", sigma="5:55", sigma_conditioned=conditioned)
    clean, noise = torch.rand(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    sigmas = torch.tensor([5.025, 30.025, 54.975])
    model = Told(lambda sample: sample - clean)
    loss = learning.loss(step(learning, model, clean, noise, torch.tensor([0, 500, 999])))
    ((noisy, timestep),) = model.calls
    torch.testing.assert_close(noisy - clean, sigmas[:, None, None, None] * 2 / 255 * noise, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(timestep.float(), sigmas if conditioned else torch.tensor(0.0))
    torch.testing.assert_close(loss, torch.zeros(3), atol=1e-6, rtol=0)
    wrong = learning.loss(step(learning, Told(torch.zeros_like), clean, noise, torch.tensor([0, 500, 999])))
    torch.testing.assert_close(wrong, (noisy - clean).abs().mean(dim=(1, 2, 3)))


def test_a_share_of_the_images_is_for_the_answer_in_one_evaluation(tiny):
    learning = task(tiny, task="upscale", regression_share=0.25, loss="squared")
    clean, noise = torch.rand(4, 1, 8, 8) * 2 - 1, torch.randn(4, 1, 8, 8)
    model = Told(lambda sample: torch.zeros(4, 1, 8, 8))
    loss = learning.loss(step(learning, model, clean, noise, torch.tensor([0, 375, 749, 750])))
    ((inputs, timesteps),) = model.calls
    assert timesteps.tolist() == [0, 500, 998, 999]
    noisy, enlarged = inputs.chunk(2, dim=1)
    assert float(noisy[3].abs().max()) == 0
    assert float(noisy[:3].abs().amin(dim=(1, 2, 3)).max()) < float(noisy[2].abs().max())
    residual = 4 * (clean - enlarged)
    torch.testing.assert_close(loss[3], (residual[3] ** 2).mean())  # v is minus the residual there
    # nothing of the residual is left at the last timestep: the answer there is the mean
    assert float(learning.process.scheduler.alphas_cumprod[-1]) == 0
    known = Told(lambda sample: -residual)
    _, restored = learning.restored(step(learning, known, clean, noise, torch.zeros(4)))
    torch.testing.assert_close(restored, clean, rtol=0, atol=1e-5)


def test_compression_is_an_option_of_upscaling(tiny):
    """Without it nothing is as different as a bit; with it each image has a quality of its own, by the draws alone."""
    times = torch.tensor([0, 375, 749, 750])
    clean, noise = torch.rand(4, 1, 16, 16) * 2 - 1, torch.randn(4, 1, 16, 16)

    def inputs(**options):
        learning = task(tiny, task="upscale", regression_share=0.25, **options)
        model = Told(lambda sample: torch.zeros(4, 1, 16, 16))
        return learning.loss(step(learning, model, clean, noise, times)), model.calls[0][0][:, 1:]

    small = to_8_bit(resize(clean / 2 + 0.5, 8, 8))
    loss, enlarged = inputs()
    assert torch.equal(enlarged, enlarge(small, 2) * 2 - 1)
    for bounds, low, high in (("5:95", 5, 95), ("30", 30, 30)):
        shares = [(1 + math.erf(float(value) / math.sqrt(2))) / 2 for value in noise[:, 0, 0, 0]]
        files = [compressed(image, round(low + (high - low) * share)) for image, share in zip(small, shares)]
        for _ in range(2):
            loss_of_jpeg, enlarged = inputs(jpeg_quality=bounds)
            assert torch.equal(enlarged, enlarge(torch.stack(files), 2) * 2 - 1)
            assert not torch.equal(loss_of_jpeg, loss)
    # with a share, some stay clean; the others spread over all qualities again
    noise[:, 0, 0, 0] = torch.tensor([-2.0, -0.7, 0.1, 2.0])
    shares = [(1 + math.erf(float(value) / math.sqrt(2))) / 2 / 0.5 for value in noise[:2, 0, 0, 0]]
    files = [compressed(image, round(5 + 90 * share)) for image, share in zip(small, shares)]
    _, enlarged = inputs(jpeg_quality="5:95", jpeg_share=0.5)
    assert torch.equal(enlarged, enlarge(torch.stack([*files, *small[2:]]), 2) * 2 - 1)
    assert torch.equal(inputs(jpeg_quality="5:95", jpeg_share=0.0)[1], enlarge(small, 2) * 2 - 1)


WRONG = [
    ({"task": "denoise", "sigma": "55:0"}, "LOW:HIGH"),
    ({"task": "denoise", "sigma": "0"}, "LOW:HIGH"),
    ({"task": "denoise", "sigma": "low:high"}, "LOW:HIGH"),
    ({"task": "denoise", "objective": "sample"}, "a denoiser predicts the noise"),
    ({"task": "denoise", "min_snr_gamma": 5.0}, "--min-snr-gamma is for --task generate"),
    ({"task": "denoise", "class_conditional": True}, "--class-conditional is for --task generate"),
    ({"task": "upscale", "scale": 5}, "2, 3, 4"),
    ({"task": "upscale", "jpeg_quality": "95:30"}, "jpeg_quality='95:30' must be LOW:HIGH"),
    ({"task": "upscale", "jpeg_quality": "0:50"}, "1 to 95"),
    ({"task": "upscale", "jpeg_share": 0.5}, "--jpeg-share is a share of images with --jpeg-quality"),
    ({"task": "denoise", "jpeg_quality": "50"}, "--jpeg-quality is for --task upscale"),
    ({"task": "upscale", "objective": "epsilon"}, "v_prediction or sample"),
    ({"task": "denoise", "process": "flow"}, "--process flow is for --task generate"),
    ({"task": "upscale", "process": "flow"}, "--process flow is for --task generate"),
    ({"task": "generate", "process": "flow", "min_snr_gamma": 5.0}, "--min-snr-gamma is for --process variance-pres"),
    ({"task": "generate", "process": "flow", "objective": "sample"}, "--objective is for --process variance-pres"),
    ({"task": "generate", "logit_mean": 1.0}, "--logit-mean is for --process flow"),
    ({"task": "generate", "process": "flow", "shift": 0.0}, "--shift 0.0 must be above 0"),
    ({"task": "upscale", "regression_share": 1.5}, "at least 0 and at most 1"),
    ({"task": "generate", "loss": "absolute"}, "--loss is for --task denoise and --task upscale"),
    ({"task": "inpainting"}, "must be one of generate, denoise, upscale"),
    ({"task": "denoise", "factor": 2}, "--factor is for --task codec"),
]
WRONG_CODECS = [
    ({"preset": "base"}, "--preset is for U-Nets"),
    ({"quantization_aware": True}, "--quantization-aware is for U-Nets"),
    ({"objective": "v_prediction"}, "--objective is for diffusion models"),
    ({"factor": 3}, "--factor 3 must be one of 2, 4, 8, 16"),
    ({"factor": 16, "blocks": [1]}, "images of 8x8 pixels cannot be made 16 times smaller"),
    ({"latent_channels": 5}, "makes latents larger than images"),
    ({"widths": [4, 8]}, "one width for all levels"),
    ({"blocks": [1, 1, 1]}, "--blocks has 3 numbers"),
    ({"widths": []}, "need a number"),
    ({"autoencoder": "kl", "widths": [8], "blocks": [1, 2]}, "same number of blocks"),
    ({"model_options": {"depth": 3}}, "the model cannot be made"),
    ({"start_from": "nowhere"}, "the codec nowhere does not exist"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_settings_that_do_not_fit_are_refused(changes, message, tiny, tmp_path):
    with pytest.raises(InputError, match=message):
        train(restoration(tiny, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("changes", "message"), WRONG_CODECS)
def test_codecs_that_cannot_be_made_are_refused(changes, message, tiny, tmp_path):
    with pytest.raises(InputError, match=message):
        train(codec(tiny, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", ["tiny", "ddpm_small"])
def test_a_class_conditional_run_knows_its_classes_and_images_of_any(preset, tiny, tmp_path, monkeypatch):
    """Which images lose their class depends on seed and position alone; those of validation keep it."""
    seen = {"loss": [], "error": []}
    for name, kept in seen.items():
        original = getattr(GenerateTask, name)

        def method(self, step, *, original=original, kept=kept, **options):
            kept.append(step.conditions["class_labels"].tolist())
            return original(self, step, **options)

        monkeypatch.setattr(GenerateTask, name, method)
    model = {"block_out_channels": [8, 8], "norm_num_groups": 4, "layers_per_block": 1}
    options = {"class_conditional": True, "condition_dropout": 0.5, "preset": preset, "model_options": model}
    options["default_guidance"] = 2.5
    train(tiny(**options, steps=2, sample_every=2, num_samples=4, validate_every=2))
    draws = uniform(0, Stream.CONDITIONS, range(8))
    training = [labels for labels in seen["loss"] if labels not in seen["error"]]
    assert [label == 3 for labels in training for label in labels] == (draws < 0.5).tolist()
    assert all(label < 3 for labels in seen["error"] for label in labels)

    pipeline = load_pipeline(tmp_path / "run")
    known = pipeline.facts.conditions
    assert known == ConditionFacts(("circle", "square", "triangle"), 3, 2.5)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(1, num_inference_steps=2, class_labels="circle", guidance_scale=3).images[0].size == (8, 8)
    assert pipeline(1, num_inference_steps=2).images[0].size == (8, 8)
    picture = Image.open(tmp_path / "run" / "samples" / "step-00000002.png")
    assert picture.height == 3 * 50 + 2


def test_without_dropout_no_class_stands_for_any(tiny, tmp_path):
    """So a run of an earlier version, which does not name the option, is the same as before."""
    old = {"task": {"name": "generate", "class_conditional": True}}
    assert recorded(old).task.condition_dropout == 0
    assert recorded({"task": {"name": "generate", "class_conditional": False}}).task.condition_dropout == 0.1
    assert TrainConfig.from_dict(old).task.condition_dropout == 0.1
    train(tiny(class_conditional=True, condition_dropout=0.0, steps=1, sample_every=9, num_validation=0))
    pipeline = load_pipeline(tmp_path / "run")
    assert pipeline.unet.config.num_class_embeds == len(pipeline.facts.conditions.classes)
    with pytest.raises(InputError, match="trained without dropping its classes"):
        pipeline(1, class_labels="circle", guidance_scale=2.0)
    with pytest.raises(InputError, match="needs a model that knows images of any class"):
        load_restorer(tmp_path / "run", "denoise")


def test_presets_of_other_dimensions_are_refused():
    task = make_task(TrainConfig.from_dict({"data": "digits", "output": "x", "steps": 1}))
    size = {"in_channels": 1, "out_channels": 1, "sample_size": 16}
    for preset, other in (("clips", "--task video"), ("planner", "--task plan")):
        with pytest.raises(ValueError, match=f"--preset {preset} is a model of .*{other}"):
            task.new_model(preset, size, {})
