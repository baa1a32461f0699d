"""Distillation: exact resumption, what each method learns, a sampler of its own, and what is refused."""

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image

from continuous_unet import ContinuousUNet2DModel, DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.levels import NoiseRange
from continuous_unet.diffusion.process import process_of
from continuous_unet.tasks.base import StepContext
from continuous_unet.tasks.distill.answers import Teacher
from continuous_unet.tasks.distill.methods import METHODS as LOSSES
from continuous_unet.tasks.distill.methods import Lesson, same_dropout
from continuous_unet.tasks.distill.options import DistillTraining
from continuous_unet.tasks.facts import ConditionFacts, Facts
from continuous_unet.tasks.generate.options import SampleOptions
from continuous_unet.tasks.generate.pipeline import choose_sampler, generate
from continuous_unet.tasks.generate.run import sample_images
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training import TrainConfig, train
from continuous_unet.training.distill import DistillOptions, distill
from tests.training.conftest import unet as discrete
from tests.training.runs import assert_same_runs, records

TINY = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "norm_num_groups": 4}
METHODS = {
    "ect, guided, fresh noise, elastic": {"teacher_guidance": 2.0, "fresh_noise": True, "solver_steps": "1,2"},
    "sfd": {"method": "sfd"},
    "meanflow": {"method": "meanflow"},
}


def teacher(path, model=None, prediction="v_prediction", classes=True):
    """A saved model of random weights that predicts something."""
    torch.manual_seed(0)
    if model is None:
        model = ContinuousUNet2DModel(**TINY, add_attention=False, dropout=0.1, num_class_embeds=4 if classes else None)
        torch.nn.init.normal_(model.conv_out.weight, std=0.05)
    facts = Facts(ConditionFacts(("circle", "square", "triangle"), 3)) if classes else None
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction)
    DiffusionSamplingPipeline(model, scheduler, facts).save_pretrained(path)
    return str(path)


def options(tmp_path, **changes):
    common = {
        "teacher": str(tmp_path / "teacher"),
        "output": str(tmp_path / "run"),
        "data": "shapes",
        "steps": 4,
        "batch_size": 2,
        "lr_warmup_steps": 0,
        "lr_schedule": "constant",
        "num_validation": 2,
        "checkpoint_every": 2,
        "validate_every": 2,
        "sample_every": 4,
        "log_every": 1,
        "num_samples": 4,
        "device": "cpu",
    }
    return DistillOptions.from_dict({**common, **changes})


@pytest.mark.parametrize("kind", METHODS)
def test_a_run_its_resumption_and_its_sampler(kind, tmp_path):
    teacher(tmp_path / "teacher")
    distill(options(tmp_path, **METHODS[kind], output=str(tmp_path / "whole")))
    part = options(tmp_path, **METHODS[kind], output=str(tmp_path / "part"))
    distill(part.replaced(steps=2))
    teacher(tmp_path / "teacher", prediction="epsilon")  # the teacher's run has gone on, or is gone
    distill(part, resume=True)
    assert_same_runs(tmp_path / "whole", tmp_path / "part", step=4)
    assert [r["step"] for r in records(tmp_path / "whole") if "validation_loss" in r] == [2, 4]
    assert (tmp_path / "whole" / "samples" / "step-00000004.png").is_file()

    pipeline = load_pipeline(tmp_path / "whole")
    assert pipeline.facts.sampler.numbers == [1, 2, 3, 4]
    assert pipeline.facts.conditions == ConditionFacts(("circle", "square", "triangle"), 3)
    assert bool(pipeline.unet.config.next_timestep_embedding) == (kind in ("sfd", "meanflow"))
    assert ("fresh" in kind) == pipeline.facts.sampler.fresh_noise
    assert pipeline.unet.config.elastic_depth == ("elastic" in kind)
    assert pipeline.facts.solver_steps is None  # the error of a student is not one of a noise level
    assert choose_sampler(pipeline, None, None) == 4
    if kind != "meanflow":
        check_its_sampler(pipeline, tmp_path)


def check_its_sampler(pipeline, tmp_path):
    """It evaluates the model as often as it is asked to, and refuses other numbers and other schedulers."""
    calls = []
    pipeline.unet.register_forward_pre_hook(lambda *inputs: calls.append(inputs[2]), with_kwargs=True)
    images = {}
    for number in (1, 2, 4):
        calls.clear()
        images[number] = list(generate(pipeline, 2, num_inference_steps=number, class_label=1))
        assert len(calls) == number
        if pipeline.unet.config.next_timestep_embedding:
            assert [float(call["next_timestep"]) for call in calls][-1] == 0
    (batch,), (first,) = images[4], generate(pipeline, 1, num_inference_steps=4, class_label=1)
    torch.testing.assert_close(first[0], batch[0])  # whatever the batch, also with fresh noise
    with pytest.raises(InputError, match="distilled for 1, 2, 3, 4 sampling steps, not 5"):
        pipeline(num_inference_steps=5, class_labels=1)
    with pytest.raises(InputError, match="--scheduler ddim: this model was distilled"):
        choose_sampler(pipeline, "ddim", 2)
    with pytest.raises(InputError, match="was distilled itself"):
        distill(options(tmp_path, teacher=str(tmp_path / "whole"), output=str(tmp_path / "again")))
    (made,) = sample_images(SampleOptions(str(tmp_path / "whole"), str(tmp_path / "a.png"), 1)).files
    assert Image.open(made).size == (8, 8)


def refused(tmp_path, message, **changes):
    with pytest.raises(InputError, match=message):
        distill(options(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_is_refused_before_a_folder_is_made(tmp_path):
    teacher(tmp_path / "teacher", classes=False)
    refused(tmp_path, "--q is for --method ect", method="sfd", q=64.0)
    refused(tmp_path, "--m is for --method meanflow", m=8)
    refused(tmp_path, "--fresh-noise is for --method ect", method="meanflow", fresh_noise=True)
    refused(tmp_path, "at least 1 and at most 4", evaluations=5)
    refused(tmp_path, "was not trained with dropped classes", teacher_guidance=2.0)
    refused(tmp_path, "differs from this run in the size of the images", image_size=16)
    refused(tmp_path, "differs from this run in the number of input channels", channels=3)
    teacher(tmp_path / "teacher", discrete(num_class_embeds=4))
    refused(tmp_path, "UNet2DModel is not told where an evaluation jumps to", method="sfd")
    refused(tmp_path, "UNet2DModel is not told where an evaluation jumps to", method="meanflow")
    with pytest.raises(InputError, match="--task distill needs a teacher"):
        train(TrainConfig.from_dict({"task": "distill", "data": "shapes", "output": str(tmp_path / "run")}))


def test_a_discrete_student_has_one_number_of_evaluations(tmp_path):
    teacher(tmp_path / "teacher", discrete(num_class_embeds=4))
    distill(options(tmp_path, method="sfd", evaluations=2, steps=1))
    assert load_pipeline(tmp_path / "run").facts.sampler.numbers == [2]


def test_a_guided_model_of_texts_can_be_distilled(tiny, tmp_path):
    for i in range(8):
        Image.new("L", (8, 8), 20 * i).save(tmp_path / f"{('red', 'blue')[i % 2]} square {i}.png")
    common = {"data": str(tmp_path), "captions": "filename", "steps": 1, "lr_schedule": "constant"}
    train(tiny(**common, text_encoder="built-in", objective="v_prediction", output=str(tmp_path / "teacher")))
    del common["captions"]  # known from the teacher's run
    distill(options(tmp_path, **common, method="sfd", teacher_guidance=3.0))
    pipeline = load_pipeline(tmp_path / "run")
    assert pipeline.facts.text == load_pipeline(tmp_path / "teacher").facts.text
    assert pipeline(num_inference_steps=1, prompt="blue square", output_type="pt").images.shape == (1, 1, 8, 8)


PROCESSES = {
    **{kind: lambda kind=kind: DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=kind)
       for kind in ("epsilon", "v_prediction", "sample")},
    "flow": FlowMatchEulerDiscreteScheduler,
}  # fmt: skip


@pytest.fixture(params=PROCESSES)
def process(request):
    return process_of(PROCESSES[request.param]())


def test_levels_fall_from_noise_to_the_clean_image(process):
    levels = NoiseRange.of(process)
    for mid in (0.3, 0.9, 3.0, 9.0):
        assert levels.levels(2, mid) == pytest.approx([levels.high, mid], rel=1e-3)
        four = levels.levels(4, mid)
        assert four == sorted(four, reverse=True)
        assert four[::2] == pytest.approx(levels.levels(2, mid))
        assert levels.low < four[-1] < four[-2]


class Knows:
    """A model whose data are normal around one image, with a standard deviation that may be 0; it is always right."""

    def __init__(self, process, mean, deviation=0.0, error=0.0):
        self.process, self.mean, self.variance, self.error = process, mean, deviation**2, error
        self.config = SimpleNamespace(num_class_embeds=None)

    def __call__(self, x_t, times, next_timestep=None):
        levels = [self.process.coefficients(float(time)) for time in times]
        signal, noise = torch.tensor(levels).T[:, :, None, None, None]
        share = signal * self.variance / (signal**2 * self.variance + noise**2)
        clean = self.mean + share * (x_t - signal * self.mean) + self.error * noise
        return SimpleNamespace(sample=self.process.add_noise(clean, (x_t - signal * clean) / noise, times).target)


@pytest.mark.parametrize("method", ["ect", "sfd", "meanflow"])
def test_a_student_that_knows_everything_has_nothing_to_learn(method, process):
    """With one image as data all paths are straight, and every step of a right answer ends on its path."""
    mean = torch.rand(1, 1, 4, 4) * 2 - 1
    choice = DistillTraining(method=method)

    def loss(error):
        student, right = Knows(process, mean, error=error), Knows(process, mean)
        noise = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        step = StepContext(student, process, mean.expand_as(noise), noise, torch.zeros(8), positions=range(8))
        return LOSSES[method](Lesson(step, Teacher(right, process, {}, {}), choice, 0, NoiseRange.of(process)))

    assert loss(0.0).shape == (8,)
    assert float(loss(0.0).max()) < 2e-2
    assert float(loss(0.5).max()) > 20 * float(loss(0.0).max())


class Jumps(Knows):
    """The same model, which knows where the path from one level to the next ends."""

    def __call__(self, x_t, times, next_timestep):
        def levels(part):
            found = [self.process.coefficients(float(time)) if time else (1.0, 0.0) for time in part]
            return torch.tensor(found).T[:, :, None, None, None]

        (signal, noise), (next_signal, next_noise) = levels(times), levels(next_timestep)
        level, lower, start = noise / signal, next_noise / next_signal, x_t / signal - self.mean
        end = start * ((self.variance + lower**2) / (self.variance + level**2)).sqrt()
        jump = (end - lower / level * start) / (1 - lower / level).clamp(min=1e-6)
        still = start * self.variance / (self.variance + level**2)
        clean = self.mean + torch.where(level == lower, still, jump)
        return SimpleNamespace(sample=self.process.add_noise(clean, (x_t - signal * clean) / noise, times).target)


def test_meanflow_learns_where_paths_end():
    """Of two students, the one whose jumps end on the path has less to learn than one that goes straight on."""
    process = process_of(FlowMatchEulerDiscreteScheduler())
    mean, losses = torch.full((1, 1, 4, 4), 0.5), []
    noise = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for kind in (Jumps, Knows):
        student, clean = kind(process, mean, 0.5), mean + 0.5 * noise.flip(0)
        step = StepContext(student, process, clean, noise, torch.zeros(64), positions=range(64))
        right = Teacher(Knows(process, mean, 0.5), process, {}, {}, guidance=2.0)
        choice = DistillTraining(method="meanflow", m=32)
        losses.append(float(LOSSES["meanflow"](Lesson(step, right, choice, 0, NoiseRange.of(process))).mean()))
    assert losses[0] < 0.5 * losses[1]


def test_the_path_of_the_teacher_is_that_of_the_ode(process):
    """For normal data the path is known: the distance from the mean shrinks as the standard deviation does."""
    mean, deviation, noise = torch.full((1, 1, 4, 4), 0.3), 0.5, torch.randn(2, 1, 4, 4)
    levels = NoiseRange.of(process)
    signal, sigma = process.coefficients(float(process.time_at(torch.tensor(levels.high))))
    start = signal * mean + math.hypot(signal * deviation, sigma) * noise
    errors = []
    for steps in (10, 40):
        right = Teacher(Knows(process, mean, deviation), process, {}, {})
        end = right.path(start, levels.levels(steps, 2.0))[-1]
        errors.append(float((end - mean - deviation * noise).abs().max()))
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 3


def test_a_guided_teacher_goes_beyond_the_class():
    process = process_of(DDPMScheduler(prediction_type="sample"))

    def model(x_t, times, class_labels):
        return SimpleNamespace(sample=class_labels[:, None, None, None].float().expand_as(x_t))

    x_t, times, labels = torch.randn(2, 1, 4, 4), torch.tensor([500.0, 10.0]), torch.tensor([1, 2])
    free = {"class_labels": torch.tensor([3, 3])}
    seen = Teacher(model, process, {"class_labels": labels}, free, guidance=2.0).answer(x_t, times)
    torch.testing.assert_close(seen.clean, torch.tensor([-1.0, 1.0])[:, None, None, None].expand_as(x_t))
    torch.testing.assert_close(seen.at(process, times), x_t)


def test_dropout_is_the_same_for_both_answers():
    torch.manual_seed(0)
    with same_dropout(torch.device("cpu")):
        first = torch.rand(3)
    assert torch.equal(first, torch.rand(3))
