"""The NumPy module: its noise, its samplers compared with those of diffusers, its tasks, and that it needs no torch."""

import dataclasses
import hashlib
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from PIL import Image

from continuous_unet.deploy.parity import measure_parity
from continuous_unet.deploy.standalone import runtime
from continuous_unet.deploy.standalone.runtime import ExportedModel, ExportedModelError, Schedule
from continuous_unet.diffusion.draws import normal
from continuous_unet.diffusion.options import FlowOptions
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.samplers import make_scheduler, set_timesteps
from continuous_unet.diffusion.table import TableSampler, make_rows
from continuous_unet.images.grids import METADATA_KEY
from continuous_unet.tasks.generate.starting import as_pictures, start
from continuous_unet.text.subwords import Subwords, learn_vocabulary
from tests.random123 import VECTORS


@pytest.mark.parametrize("counter", VECTORS, ids=["zeros", "ones", "digits of pi"])
def test_philox_gives_the_published_words(counter):
    key, words = VECTORS[counter]
    assert runtime.philox(key, np.array([counter], np.uint32)).tolist() == [list(words)]


def test_noise_is_normal_and_depends_on_seed_number_and_stream_alone():
    noise = runtime.normal_noise(3, 5, (2, 100, 101))
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
    assert 3.5 < abs(noise).max() < 6
    assert np.array_equal(noise.reshape(-1)[:7], runtime.normal_noise(3, 5, (7,)))
    for other in (
        runtime.normal_noise(4, 5, (7,)),
        runtime.normal_noise(3, 6, (7,)),
        runtime.normal_noise(3, 5, (7,), 1),
    ):
        assert not np.array_equal(other, noise.reshape(-1)[:7])
    high = runtime.normal_noise(3 + 2**40, 5, (7,))  # the upper word of the seed counts, too
    assert not np.array_equal(high, noise.reshape(-1)[:7])
    with pytest.raises(ExportedModelError, match="seed -1 must lie in 0 to"):
        runtime.normal_noise(-1, 0, (1,))


def slope(x, timestep):
    """A prediction that depends on everything, in float32, the same for arrays and tensors."""
    return x.clip(-2, 2) * 0.3 + timestep / 4000


SCHEDULES = [
    {"beta_schedule": schedule, "prediction_type": kind, "timestep_spacing": spacing}
    for schedule, kind, spacing in [
        ("linear", "epsilon", "trailing"),
        ("squaredcos_cap_v2", "v_prediction", "trailing"),
        ("scaled_linear", "sample", "trailing"),
        ("squaredcos_cap_v2", "epsilon", "linspace"),
        ("linear", "v_prediction", "leading"),
    ]
]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 20, 30])
@pytest.mark.parametrize("options", SCHEDULES, ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize("name", ["ddim", "dpm++"])
def test_samplers_are_those_of_diffusers(name, options, num_steps):
    if name == "ddim":
        scheduler = DDIMScheduler(**options)
    else:
        scheduler = DPMSolverMultistepScheduler(**options, final_sigmas_type="zero")
    schedule = Schedule(
        scheduler.alphas_cumprod.numpy(), options["prediction_type"], options["timestep_spacing"], clip_sample=True
    )
    noise = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32)

    scheduler.set_timesteps(num_steps)
    x, timesteps = torch.tensor(noise), []
    for timestep in scheduler.timesteps:
        timesteps.append(int(timestep))
        x = scheduler.step(slope(x, int(timestep)), timestep, x).prev_sample

    seen = []

    def network(x, timestep, class_labels):
        seen.append(timestep)
        return slope(x, timestep)

    result = runtime.sample(network, schedule, noise, num_steps, name)
    assert result.dtype == np.float32
    assert seen == timesteps
    assert np.isfinite(result).all()
    assert np.abs(result - x.numpy()).max() <= 2e-5 * max(1, float(x.abs().max()))


def network_of(prediction):
    """Returns a network that predicts the same in NumPy and in PyTorch."""
    return lambda x, timestep, class_labels=None: prediction(x, np.asarray(timestep, np.float32).reshape(-1, 1, 1, 1))


FLOW = FlowOptions(shift=2.0).make()
TABLES = {
    "flow": (FLOW, make_rows(FLOW, [1000, 612.5, 100.25])),
    "flow, fresh noise": (FLOW, make_rows(FLOW, [1000, 612.5, 100.25], fresh=True)),
    "clipped": (process_of(DDPMScheduler()), make_rows(process_of(DDPMScheduler()), [999, 612.5, 100.25])),
    "v": (process_of(DDPMScheduler(prediction_type="v_prediction", clip_sample=False)),) * 2,
}
TABLES["v"] = (TABLES["v"][0], make_rows(TABLES["v"][0], [999, 612.5, 100.25], fresh=True))
TABLES["flow, second order"] = (FLOW, make_rows(FLOW, [900, 612.5, 100.25], order=2))
TABLES["clipped, second order"] = (TABLES["clipped"][0], make_rows(TABLES["clipped"][0], [999, 612.5, 100.25], order=2))


def exported_schedule(process, rows):
    schedule = {**process.describe(), "tables": [[dataclasses.asdict(row) for row in rows]]}
    return runtime.read_schedule({"schedule": json.loads(json.dumps(schedule))})


@pytest.mark.parametrize("name", TABLES)
def test_a_table_gives_what_it_gives_in_pytorch(name):
    """Its new noise is drawn by Philox: stream 1024 for the first step, then 1025, and so on."""
    process, rows = TABLES[name]
    schedule, shape = exported_schedule(process, rows), (1, 4, 4)
    noise = np.stack([runtime.normal_noise(7, k, shape) for k in range(2)])
    found = runtime.sample(network_of(slope), schedule, noise, 3, fresh=runtime._noise_source(7, range(2), shape))
    x, before = torch.tensor(noise), None
    for k, row in enumerate(rows):
        clean, unit = row.parts(process, x, slope(x, row.timestep))
        x = row.onward(clean, normal(7, 1024 + k, range(2), shape) if row.fresh else unit, before)
        before = clean
    assert ("second" in name) == any(row.correction for row in rows)
    np.testing.assert_allclose(found, x.numpy(), rtol=1e-4, atol=1e-4)
    if rows[0].fresh:
        with pytest.raises(ExportedModelError, match="needs new noise"):
            runtime.sample(network_of(slope), schedule, noise, 3)


def test_a_table_of_second_order_can_start_from_pictures():
    """The first step that is taken has no image before it."""
    rows, shape = make_rows(FLOW, [900, 700, 400, 100], order=2), (1, 4, 4)
    noise, pictures = (np.random.default_rng(k).standard_normal((2, *shape)).astype(np.float32) for k in range(2))
    schedule = exported_schedule(FLOW, rows)
    found = runtime.sample(network_of(slope), schedule, noise, 4, pictures=pictures, strength=0.75)
    sampler = TableSampler(FLOW, {4: rows})
    sampler.set_timesteps(4)
    sampler.set_begin_index(1)
    x = sampler.add_noise(torch.tensor(pictures), torch.tensor(noise), sampler.timesteps[1:2])
    for timestep in sampler.timesteps[1:]:
        x = sampler.step(slope(x, float(timestep)), timestep, x).prev_sample
    np.testing.assert_allclose(found, x.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_euler_is_that_of_diffusers(num_steps):
    schedule = runtime.read_schedule({"schedule": FLOW.describe()})
    noise = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32)
    scheduler, x = FLOW.make_sampler("euler"), torch.tensor(noise)
    set_timesteps(scheduler, num_steps)
    for timestep in scheduler.timesteps:
        x = scheduler.step(slope(x, float(timestep)), timestep, x).prev_sample
    found = runtime.sample(network_of(slope), schedule, noise, num_steps)
    np.testing.assert_allclose(found, x.numpy(), rtol=1e-5, atol=1e-5)


def test_samplers_are_chosen_by_model_and_number_of_steps():
    process, rows = TABLES["clipped"]
    schedule = exported_schedule(process, rows)

    def times(*arguments):
        return [time for time, _ in runtime.steps_of(schedule, *arguments)]

    assert times(3) == times(3, "own") == [999, 612.5, 100.25]
    assert times(3, "ddim") == [999, 666, 332]
    assert times(2) == [999, 499]
    with pytest.raises(ExportedModelError, match=r"no schedule of its own of 2 steps \(it has: 3\)"):
        times(2, "own")
    with pytest.raises(ExportedModelError, match=r"'euler' does not fit this model; expected one of ddim, dpm\+\+"):
        times(2, "euler")
    flow = runtime.read_schedule({"schedule": FLOW.describe()})
    with pytest.raises(ExportedModelError, match="'ddim' does not fit this model; expected one of euler"):
        runtime.steps_of(flow, 2, "ddim")


@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_a_flow_matching_model_removes_noise(mode):
    clean, calls = np.full((1, 1, 8, 8), 0.25, np.float32), []

    def network(x, timestep):
        calls.append(float(timestep[0]))
        return (x - clean) / (timestep[0] / 1000)  # knows the image

    info = {**PERFECT, "schedule": {**FLOW.describe(), "tables": []}}
    noisy = clean / 2 + 0.5 + 0.2 * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    result = runtime.denoise(ExportedModel(network, info), noisy, 51.0, mode=mode, steps=4)
    np.testing.assert_allclose(result, clean / 2 + 0.5, rtol=0, atol=1e-5)
    start = 1000 * 0.4 / 1.4  # sigma / (1 + sigma), in [-1, 1]
    assert calls == pytest.approx([start] if mode == "mean" else [start, start * 3 / 4, start / 2, start / 4])


@pytest.mark.parametrize(("kind", "gain"), [("epsilon", 100), ("v_prediction", 1)])
def test_an_error_of_sampling_counts_without_what_the_sampler_adds(kind, gain):
    schedule = {**PERFECT["schedule"], "alphas_cumprod": np.linspace(0.9999, 1e-5, 1000).tolist()}
    info = {**PERFECT, "schedule": {**schedule, "prediction_type": kind}}
    right, wrong = (ExportedModel(lambda x, t, off=off: 0.5 * x + off, info) for off in (0, 1e-3))
    found = measure_parity(wrong, right)
    assert found["short_sampling"]["gain"] == pytest.approx(gain)
    assert max(entry["max_error"] for entry in found["inputs"]) == pytest.approx(1e-3, rel=0.6)
    expected = max(found["short_sampling"]["max_error"] / gain, *(e["max_error"] for e in found["inputs"]))
    assert found["max_error"] == pytest.approx(expected)
    assert measure_parity(right, right)["max_error"] == 0


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_schedule_of_an_export_is_that_of_the_training(kind):
    training = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=kind, clip_sample_range=1.5)
    values = json.loads(json.dumps(process_of(training).describe()))
    schedule = runtime.read_schedule({"schedule": values})
    assert np.array_equal(schedule.alphas_cumprod, training.alphas_cumprod.numpy())
    ddim = make_scheduler("ddim", training.config)
    assert schedule.prediction_type == kind
    assert schedule.timestep_spacing == ddim.config.timestep_spacing == "trailing"
    assert schedule.clip_sample is (kind == "epsilon")
    assert schedule.clip_sample_range == 1.5
    assert schedule.final_alpha_cumprod == float(ddim.final_alpha_cumprod)


def inputs(shape, *names):
    """The inputs of an export for samples of this shape, and further ones of one whole number for each image."""
    more = [{"name": name, "dtype": "int64", "shape": shape[:1]} for name in names]
    first = [{"name": "sample", "dtype": "float32", "shape": shape}]
    return [*first, {"name": "timestep", "dtype": "float32", "shape": shape[:1]}, *more]


PERFECT = {
    "format_version": 1,
    "format": "onnx",
    "files": {},
    "task": "generation",
    "inputs": inputs(["batch", 1, "height", "width"]),
    "image_shape": [1, 8, 8],
    "size_multiple_of": 4,
    "num_classes": None,
    "schedule": {"alphas_cumprod": np.linspace(0.9999, 0.01, 1000).tolist()},
}


def perfect_denoiser(clean, calls):
    """A model that knows the clean image, in [-1, 1], and says what noise is left."""
    alphas = np.array(PERFECT["schedule"]["alphas_cumprod"], np.float32)

    def network(x, timestep):
        calls.append(float(timestep[0]))
        alpha = alphas[int(timestep[0])]
        return (x - np.sqrt(alpha) * clean) / np.sqrt(1 - alpha)

    return ExportedModel(network, PERFECT)


@pytest.mark.parametrize(("mode", "evaluations"), [("mean", 1), ("sample", 6)])
def test_denoising_starts_where_the_noise_is_that_of_the_image(mode, evaluations):
    rng = np.random.default_rng(0)
    clean = rng.uniform(0.1, 0.9, (1, 1, 8, 8)).astype(np.float32)
    noisy = clean + rng.standard_normal(clean.shape).astype(np.float32) * 50 / 255
    calls = []
    model = perfect_denoiser(clean * 2 - 1, calls)
    result = runtime.denoise(model, noisy, 50, mode=mode, steps=6)
    assert np.abs(result - clean).max() < 1e-5
    assert len(calls) == evaluations
    alpha = model.schedule.alphas_cumprod[int(calls[0])]
    assert math.sqrt((1 - alpha) / alpha) == pytest.approx(2 * 50 / 255, rel=5e-3)
    assert calls == sorted(calls, reverse=True)


def test_images_of_any_size_are_padded_and_cut():
    shapes = []

    def network(x, timestep):
        shapes.append(x.shape)
        assert np.array_equal(x[:, :, 9], x[:, :, 7])  # mirrored at the last row
        assert np.array_equal(x[:, :, :, 15], x[:, :, :, 11])
        return np.zeros_like(x)

    image = np.random.default_rng(0).uniform(size=(1, 1, 9, 14)).astype(np.float32)
    assert runtime.denoise(ExportedModel(network, PERFECT), image, 10).shape == image.shape
    assert shapes == [(1, 1, 12, 16)]


def test_a_static_batch_is_served_in_pieces():
    fixed = {**PERFECT, "inputs": inputs([2, 1, 8, 8])}
    sizes = []

    def network(x, timestep):
        sizes.append(len(x))
        return x + timestep[:, None, None, None]

    x = np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype(np.float32)
    timesteps = np.arange(5, dtype=np.float32)
    assert np.array_equal(ExportedModel(network, fixed)(x, timesteps), x + timesteps[:, None, None, None])
    assert sizes == [2, 2, 2]


def test_image_k_does_not_depend_on_the_batch():
    model = ExportedModel(lambda x, t: 0.5 * x, PERFECT)
    alone = [runtime.generate(model, 5, steps=3, seed=1, batch_size=size) for size in (5, 2)]
    assert np.array_equal(*alone)
    assert not np.array_equal(alone[0][0], alone[0][1])


@pytest.mark.parametrize(("conditioned", "expected"), [(True, 25.0), (False, 0.0)])
def test_a_trained_denoiser_predicts_the_noise(conditioned, expected):
    info = {**PERFECT, "task": "denoise", "options": {"sigma_conditioned": conditioned}, "schedule": None}
    clean = np.random.default_rng(0).uniform(0.2, 0.8, (1, 1, 9, 12)).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal(clean.shape).astype(np.float32) * 0.1
    heard = []

    def network(x, timestep):
        heard.append(float(timestep[0]))
        return x - np.pad(clean * 2 - 1, ((0, 0), (0, 0), (0, 3), (0, 0)), mode="reflect")

    model = ExportedModel(network, info)
    assert np.abs(runtime.denoise(model, clean + noise, 25) - clean).max() < 1e-6
    assert heard == [expected]
    for call, message in (
        (lambda: runtime.generate(model, 1), "trained to denoise images: give one"),
        (lambda: runtime.denoise(model, clean, 25, mode="sample"), "needs a diffusion model"),
        (lambda: runtime.upscale(model, clean), "enlarges nothing"),
    ):
        with pytest.raises(ExportedModelError, match=message):
            call()
    if conditioned:
        with pytest.raises(ExportedModelError, match="this model needs sigma"):
            runtime.denoise(model, clean, None)


@pytest.mark.parametrize(("mode", "evaluations"), [("mean", 1), ("sample", 5)])
def test_upscaling_adds_what_is_missing_to_the_enlarged_image(mode, evaluations):
    """A network that knows the residual, given as v: at the end of the process there is no signal."""
    alphas = np.append(np.linspace(0.9999, 0.01, 999), 0).astype(np.float32)
    schedule = {"alphas_cumprod": alphas.tolist(), "prediction_type": "v_prediction"}
    info = {**PERFECT, "task": "upscale", "options": {"scale": 2, "residual_scale": 4.0}, "schedule": schedule}
    info = {**info, "image_shape": [2, 8, 8], "inputs": inputs(["batch", 2, "height", "width"])}
    small = np.random.default_rng(0).uniform(0.3, 0.7, (1, 3, 4, 6)).astype(np.float32)
    missing = np.random.default_rng(1).uniform(-0.1, 0.1, (3, 1, 8, 12)).astype(np.float32)
    conditions = []

    def network(x, timestep):
        conditions.append(x[:, 1:])
        signal, noise = np.sqrt(alphas[int(timestep[0])]), np.sqrt(1 - alphas[int(timestep[0])])
        unit = (x[:, :1] - signal * missing * 8) / noise
        return signal * unit - noise * missing * 8

    result = runtime.upscale(ExportedModel(network, info), small, mode=mode, steps=5)
    bicubic = torch.nn.functional.interpolate(torch.tensor(small), scale_factor=2, mode="bicubic", antialias=True)
    assert np.abs(conditions[0].reshape(1, 3, 8, 12) - (bicubic.numpy() * 2 - 1)).max() < 1e-5
    assert np.abs(result - (bicubic.numpy() + missing.reshape(1, 3, 8, 12))).max() < 1e-4
    assert len(conditions) == evaluations


REFUSED = {
    "channels": (lambda m: m(np.zeros((1, 3, 8, 8), "f"), 0), "takes (B, 1, H, W)"),
    "multiple": (lambda m: m(np.zeros((1, 1, 8, 6), "f"), 0), "multiples of 4"),
    "classes": (lambda m: m(np.zeros((1, 1, 8, 8), "f"), 0, 3), "trained without classes"),
    "sampler": (
        lambda m: runtime.generate(m, 1, sampler="magic"),
        "'magic' does not fit this model; expected one of ddim",
    ),
    "steps": (lambda m: runtime.generate(m, 1, steps=2000), "expected 1 to 1000"),
    "none": (lambda m: runtime.generate(m, 0), "must be at least 1"),
    "sigma": (lambda m: runtime.denoise(m, np.zeros((1, 1, 8, 8)), 1e9), "must lie above 0 and below"),
    "solver steps": (lambda m: runtime.generate(m, 1, solver_steps=2), "has a fixed number of solver steps"),
    "mode": (lambda m: runtime.denoise(m, np.zeros((1, 1, 8, 8)), 9, mode="magic"), "expected mean or sample"),
    "not finite": (lambda m: runtime.generate(ExportedModel(lambda x, t: x / 0, m.info), 1), "not finite"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_does_not_fit_is_refused(kind):
    call, message = REFUSED[kind]
    with pytest.raises(ExportedModelError) as error:
        call(ExportedModel(lambda x, t: x, PERFECT))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_classes_are_checked():
    info = {**PERFECT, "num_classes": 3, "inputs": inputs(PERFECT["inputs"][0]["shape"], "class_labels")}
    model = ExportedModel(lambda x, t, c: x * c[:, None, None, None], info)
    x = np.ones((2, 1, 8, 8), np.float32)
    assert model(x, 0, [1, 2])[:, 0, 0, 0].tolist() == [1, 2]
    assert model(x, 0, 2)[:, 0, 0, 0].tolist() == [2, 2]
    for wrong, message in ((None, "give a class, 0 to 2"), (3, "in 0 to 2"), ([0, 1, 2], "one or 2 numbers")):
        with pytest.raises(ExportedModelError, match=message):
            model(x, 0, wrong)


@pytest.mark.parametrize("name", ["ddim", "dpm++"])
def test_starting_from_a_picture_is_that_of_the_pipelines(name):
    training = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    scheduler, pictures = make_scheduler(name, training.config), np.full((2, 1, 4, 4), 0.5, np.float32)
    noise = np.stack([runtime.normal_noise(0, k, (1, 4, 4)) for k in range(2)])
    schedule = runtime.read_schedule({"schedule": process_of(training).describe()})
    scheduler.set_timesteps(10)
    x, timesteps = start(scheduler, torch.tensor(noise), 10, torch.tensor(pictures), 0.6)
    for timestep in timesteps:
        x = scheduler.step(slope(x, int(timestep)), timestep, x).prev_sample
    calls = []

    def network(x, timestep, class_labels):
        calls.append(timestep)
        return slope(x, timestep)

    options = {"sampler": name, "pictures": pictures}
    result = runtime.sample(network, schedule, noise, 10, strength=0.6, **options)
    assert calls == timesteps.tolist()
    assert np.abs(result - x.numpy()).max() < 2e-5
    plain = runtime.sample(network, schedule, noise, 10, name)
    assert np.array_equal(runtime.sample(network, schedule, noise, 10, strength=1.0, **options), plain)
    for strength, message in ((0.05, "at least 20 steps"), (2.0, "above 0 and at most 1")):
        with pytest.raises(ExportedModelError, match=message):
            runtime.sample(network, schedule, noise, 10, strength=strength, **options)


def test_pictures_are_fitted_as_in_the_pipelines():
    model = ExportedModel(lambda x, t: np.zeros_like(x), {**PERFECT, "inputs": inputs(["batch", 1, 8, 8])})
    picture = np.random.default_rng(0).uniform(size=(1, 1, 20, 12)).astype(np.float32)
    expected = as_pictures(torch.tensor(picture), (1, 1, 8, 8), torch.device("cpu")).numpy()
    assert np.abs(runtime.fitted(picture, 8, 8) * 2 - 1 - expected).max() < 1e-5
    two = runtime.generate(model, 2, steps=1000, image=picture, strength=0.001)
    assert np.abs(two - runtime.fitted(picture, 8, 8)).max() < 0.05
    with pytest.raises(ExportedModelError, match=r"have shape \(3, 1, 8, 8\); expected \(1, 1, H, W\), or 2 of them"):
        runtime.generate(model, 2, image=np.zeros((3, 1, 8, 8), np.float32))


NAMED = {
    **PERFECT,
    "num_classes": 3,
    "inputs": inputs(["batch", 1, "height", "width"], "class_labels"),
    "conditions": {"classes": ["cat", "dog"], "null_class": 2, "guidance_scale": 3.0},
}


def classes_only(x, timestep, labels):
    """A prediction that says which class it was asked for: 1 for the first, 10 for the second, 0 for any."""
    return np.zeros_like(x) + np.array([1, 10, 0])[labels][:, None, None, None]


@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_guidance_leads_away_from_the_prediction_without_a_class(batch):
    sizes = []

    def network(*given):
        sizes.append(len(given[0]))
        return classes_only(*given)

    model = ExportedModel(network, {**NAMED, "inputs": inputs([batch, 1, 8, 8], "class_labels")})
    x, asked, free = np.zeros((2, 1, 8, 8), np.float32), *(runtime.conditions_of(model, c) for c in ("dog", None))
    plain, strong, negative = (
        runtime.guided(model, asked, *how)(x, 999)[:, 0, 0, 0].tolist()
        for how in ((None, 1.0), (free, 3.0), (runtime.conditions_of(model, 0), 2.0))
    )
    assert (plain, strong, negative) == ([10, 10], [30, 30], [19, 19])
    assert sizes == {"batch": [2, 4, 4], 1: [1] * 10, 3: [3] * 5}[batch]
    within = runtime.guided(model, asked, free, 3.0, (0.2, 0.8))
    assert [float(within(x, t).max()) for t in (100, 500, 900)] == [10, 30, 10]


@pytest.mark.parametrize("conditions", [NAMED["conditions"], {}], ids=["with a name for any class", "without"])
def test_without_a_class_images_show_all_classes_in_turn_in_batches_of_any_size(conditions):
    seen = []

    def network(x, timestep, labels):
        seen.append(labels[-2:].tolist())  # with guidance, the first half of a batch has no class
        return classes_only(x, timestep, labels)

    model, calls = ExportedModel(network, {**NAMED, "conditions": conditions}), []
    for batch_size in (2, 5):
        calls.append(runtime.generate(model, 4, steps=1, batch_size=batch_size))
    assert (calls[0] == calls[1]).all()
    named = 2 if conditions else 3
    assert seen == [[0, 1], [2 % named, 3 % named], [2 % named, 3 % named]]
    seen.clear()
    runtime.generate(model, 2, steps=1, image=np.zeros((1, 1, 8, 8), np.float32), strength=1.0, class_label=1)
    assert seen == [[1, 1]]


def test_what_is_asked_for_is_checked():
    model = ExportedModel(classes_only, NAMED)
    assert [runtime.class_number(model, label) for label in ("cat", "dog", "1", 1, "any", None)] == [0, 1, 1, 1, 2, 2]
    assert model(np.zeros((1, 1, 8, 8), np.float32), 0).max() == 0  # any class
    without = ExportedModel(classes_only, {**NAMED, "conditions": {}})
    plain = ExportedModel(lambda x, t: x, PERFECT)
    for call, message in (
        (lambda: runtime.generate(model, 1, class_label="bird"), "'bird' is unknown; expected one of cat, dog"),
        (lambda: runtime.generate(model, 1, class_label=7), "in 0 to 2"),
        (lambda: runtime.generate(model, 1, prompt="a cat"), "trained without text; leave it out"),
        (lambda: runtime.generate(model, 1, negative_prompt="a cat"), "negative prompt was given"),
        (lambda: runtime.generate(model, 1, guidance_scale=-1.0), "guidance -1 must be 0 to 1000"),
        (lambda: runtime.generate(model, 1, guidance_interval=(0.8, 0.2)), "must lie in 0:1, in this order"),
        (lambda: runtime.generate(without, 1, image=np.zeros((1, 1, 8, 8), np.float32)), "give a class, 0 to 2"),
        (lambda: runtime.generate(without, 1, class_label=1, guidance_scale=2.0), "cannot be guided"),
        (lambda: runtime.generate(plain, 1, guidance_scale=2.0), "cannot be guided"),
        (lambda: runtime.generate(plain, 1, class_label="cat"), "trained without classes"),
    ):
        with pytest.raises(ExportedModelError, match=message):
            call()


def test_tokens_are_those_of_the_training():
    captions = ["a red square above a blue circle", "two green circles, one of them large", "a “blue” circle's edge"]
    vocabulary = learn_vocabulary(captions * 2, 60)
    encoder = runtime.TextEncoder(lambda tokens: (np.zeros((1, 12, 4)),), vocabulary, 12)
    cut = 0
    for text in (*captions, "", "A RED circle!", "purple ünicode\u00a0words", "square " * 40):
        numbers, was_cut = Subwords(vocabulary).padded(text, 12)
        assert encoder.tokens(text) == numbers
        cut += was_cut
    assert 0 < cut < 7


def test_pictures_say_how_they_were_made(tmp_path):
    images = np.zeros((2, 1, 4, 4), np.float32)
    made_by = {"model": "digits", "class": "“cat”", "prompt": None, "seed": 3}
    (file,) = runtime.save_images(images, tmp_path / "grid.png", made_by=made_by)
    assert json.loads(Image.open(file).text["continuous-unet"]) == {
        "model": "digits",
        "class": "“cat”",
        "seed": 3,
        "images": 2,
    }
    files = runtime.save_images(images, tmp_path / "files", made_by=made_by)
    assert [json.loads(Image.open(file).text["continuous-unet"])["number"] for file in files] == [0, 1]
    assert runtime.METADATA_KEY == METADATA_KEY


def damage(folder, kind):
    path = folder / "export.json"
    if kind == "no file":
        path.unlink()
    elif kind == "no JSON":
        path.write_text(path.read_text()[:500])
    elif kind == "network cut":
        network = folder / "network.onnx"
        network.write_bytes(network.read_bytes()[:-100])
    elif kind == "network gone":
        (folder / "network.onnx").unlink()
    else:
        info = json.loads(path.read_text())
        {
            "version": lambda: info.update(format_version=99),
            "no schedule": lambda: info.pop("schedule"),
            "schedule": lambda: info["schedule"].update(alphas_cumprod=[]),
            "unknown field": lambda: info["schedule"].update(magic=1),
            "spacing": lambda: info["schedule"].update(timestep_spacing="magic"),
            "offset": lambda: info["schedule"].update(steps_offset=10**6),
            "clip": lambda: info["schedule"].update(clip_sample_range="a"),
            "alphas": lambda: info["schedule"].update(alphas_cumprod=[[0.5, 0.1]]),
            "no format": lambda: info.pop("format"),
            "format": lambda: info.update(format=[1]),
            "network": lambda: info.update(network="../x"),
            "no checksum": lambda: info["files"].update({"network.onnx": {}}),
            "task": lambda: info.update(task="magic"),
            "shape": lambda: info.update(image_shape=[1, 8]),
            "pixels": lambda: info.update(image_shape=[1, 2**20, 2**20]),
            "channels": lambda: info.update(image_shape=[10**9, 8, 8]),
            "batch": lambda: info["inputs"][0].update(shape=[0, 1, 8, 8]),
            "multiple": lambda: info.update(size_multiple_of=0),
            "no name": lambda: info["inputs"][1].pop("name"),
            "dtype": lambda: info["inputs"][1].update(dtype="float8"),
            "axis": lambda: info["inputs"][1].update(shape=[-1]),
            "classes": lambda: info.update(num_classes="a"),
            "largest batch": lambda: info.update(largest_batch=0),
            "other channels": lambda: info.update(image_shape=[3, 8, 8]),
            "other classes": lambda: info.update(num_classes=3),
            "depths": lambda: info.update(solver_steps={"steps": [0], "depths": [1], "timesteps": 1000}),
            "elsewhere": lambda: info["files"].update({"../x": {"sha256": ""}}),
        }[kind]()
        path.write_text(json.dumps(info))


DAMAGE = {
    "no file": "holds no exported model",
    "no JSON": "the export is damaged",
    "network cut": "its checksum differs",
    "network gone": "is missing",
    "version": "of format version 99; expected 1",
    "no schedule": "the export is damaged",
    "schedule": "no usable noise schedule",
    "unknown field": "the export is damaged",
    "spacing": "timestep_spacing 'magic'",
    "offset": "no usable noise schedule",
    "clip": "no usable noise schedule",
    "alphas": "no usable noise schedule",
    "no format": "the export is damaged",
    "format": "format is [1], which no export has",
    "network": 'network is "../x"',
    "no checksum": "files is",
    "task": 'task is "magic"',
    "shape": "image_shape is [1, 8]",
    "pixels": "image_shape is [1, 1048576, 1048576]",
    "channels": "image_shape is [1000000000, 8, 8]",
    "batch": "inputs is",
    "multiple": "size_multiple_of is 0",
    "classes": 'num_classes is "a"',
    "largest batch": "largest_batch is 0",
    "other channels": "is not the network that export.json describes",
    "other classes": "inputs is",
    "no name": "the export is damaged",
    "dtype": "inputs is",
    "axis": "inputs is",
    "depths": "solver_steps is",
    "elsewhere": "outside its folder",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_export_is_refused_in_one_line(kind, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    damage(folder, kind)
    with pytest.raises(ExportedModelError) as error:
        runtime.load(folder)
    assert DAMAGE[kind] in str(error.value)
    assert "\n" not in str(error.value)


FLOAT, INT = 1, 7  # element types of ONNX
FOREIGN = {
    "one input": ({"sample": (FLOAT, 4)}, "sample", "Invalid input name"),
    "other names": ({"x": (FLOAT, 4), "t": (FLOAT, 1)}, "x", "Required inputs"),
    "whole timesteps": ({"sample": (FLOAT, 4), "timestep": (INT, 1)}, "sample", "Unexpected input data type"),
    "no image": ({"sample": (FLOAT, 4), "timestep": (FLOAT, 1)}, "timestep", "not [1, 8, 8]"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_network_of_others_is_refused_in_one_line(kind, exported, tmp_path):
    """A sound ONNX file, with its checksum, that is not what export.json says."""
    from onnx import helper

    inputs, output, message = FOREIGN[kind]
    axes = ["batch", 1, 8, 8]
    values = [helper.make_tensor_value_info(name, dtype, axes[:rank]) for name, (dtype, rank) in inputs.items()]
    dtype, rank = inputs[output]
    graph = helper.make_graph(
        [helper.make_node("Identity", [output], ["prediction"])],
        "foreign",
        values,
        [helper.make_tensor_value_info("prediction", dtype, axes[:rank])],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / "network.onnx").write_bytes(content)
    info = json.loads((folder / "export.json").read_text())
    info["files"]["network.onnx"]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "export.json").write_text(json.dumps(info))
    with pytest.raises(ExportedModelError, match="is not the network that export") as error:
        runtime.load(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_copied_file_runs_without_torch(exported, tmp_path, without_torch):
    """The same images from the folder alone as from the library."""
    folder = shutil.copytree(exported, tmp_path / "copy")
    script = str(folder / "runtime.py")
    code = f"import runpy; sys.argv[0] = {script!r}; runpy.run_path({script!r}, run_name='__main__')"
    command = [*without_torch["command"], without_torch["prelude"].replace("src", "no-such-folder") + code]
    options = ["--num", "2", "--steps", "3", "--seed", "7", "--output", str(tmp_path / "images")]
    run = subprocess.run([*command, *options], capture_output=True, text=True, env=without_torch["environment"])
    assert run.returncode == 0, run.stderr
    images = runtime.to_pixels(runtime.generate(runtime.load(exported), 2, steps=3, seed=7))
    for k in range(2):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "images" / f"{k:04d}.png")), images[k, :, :, 0])


def test_schedule_lists_what_the_browser_reads(info):
    """The page reads the same fields; a new one must be thought of in both."""
    assert set(info["schedule"]) == {field.name for field in dataclasses.fields(Schedule)}


def test_an_image_that_cannot_be_written_leaves_no_new_folder(tmp_path, monkeypatch):
    pictures = np.zeros((2, 1, 4, 4), np.float32)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", full)
        (tmp_path / "mine").mkdir()
        for folder in ("new", "mine"):
            with pytest.raises(ExportedModelError, match="No space left on device"):
                runtime.save_images(pictures, tmp_path / folder)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]
    runtime.save_images(pictures, tmp_path / "new")
    assert len(list((tmp_path / "new").iterdir())) == 2


CASES = Path(__file__).parents[1] / "cases"
MEANS = {  # of full scale
    "g16.png": 0.498,
    "float01.tif": 0.498,
    "float_overshoot.tif": 0.542,
    "float_m1_1.tif": 0.498,
    "int32_8bit.tif": 0.498,
    "rgb16.png": 0.498,
    "exif_garbage.jpg": 0.498,
    "or6.jpg": 0.498,
}


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_every_depth_keep_their_grey(name, channels):
    pixels = runtime.read_image(CASES / name, channels)
    height, width = (40, 32) if name == "or6.jpg" else (32, 40)
    assert pixels.shape == (1, channels, height, width)
    assert pixels.dtype == np.float32
    assert abs(pixels[:, :3].mean() - MEANS[name]) < 0.003
    assert (pixels[:, 3:] == 1).all()


def test_a_turned_picture_is_upright():
    pixels = runtime.read_image(CASES / "or6.jpg", 3)
    with Image.open(CASES / "or6.jpg") as picture:
        expected = np.asarray(picture.transpose(Image.Transpose.ROTATE_270), np.float32) / 255
    assert np.array_equal(pixels[0].transpose(1, 2, 0), expected)


@pytest.mark.parametrize("name", ["float_hdr4.tif", "int32_76500.tif"])
def test_values_of_no_usual_range_are_refused(name):
    with pytest.raises(ExportedModelError, match=r"reach from .* to .*, which is no usual range; convert it") as error:
        runtime.read_image(CASES / name, 1)
    assert "\n" not in str(error.value)


def test_a_trailing_slash_names_a_folder(tmp_path):
    paths = runtime.save_images(np.zeros((2, 1, 4, 4), np.float32), f"{tmp_path}/new.v2/")
    assert paths == [tmp_path / "new.v2" / "0000.png", tmp_path / "new.v2" / "0001.png"]
    assert all(path.is_file() for path in paths)
    assert runtime.image_paths(f"{tmp_path}/one.png/", 1) == [tmp_path / "one.png" / "0000.png"]
    (tmp_path / "dots.d").mkdir()
    assert runtime.image_paths(tmp_path / "dots.d", 1) == [tmp_path / "dots.d" / "0000.png"]
