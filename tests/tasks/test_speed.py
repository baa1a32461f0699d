"""What sampling chooses on a GPU, and that a captured evaluation computes the same."""

import pytest
import torch
from diffusers import DDPMScheduler

from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.tasks.generate import prediction, speed
from continuous_unet.tasks.generate.pipeline import generate


@pytest.mark.parametrize(
    ("needed", "free", "batch"), [(1.0, 2**40, 512), (100.0, 1600, 8), (100.0, 1599, 4), (100.0, 10, 1)]
)
def test_the_batch_fits_into_half_of_the_free_memory(needed, free, batch):
    assert speed.batch_within(needed, free) == batch


def test_a_cpu_computes_as_before(unet):
    cpu = torch.device("cpu")
    assert speed.usual_dtype(cpu) is torch.float32
    assert speed.fitting_batch(unet, cpu) == 64
    assert not speed.capture_pays(cpu, 1000)
    assert speed.capture_pays(torch.device("cuda"), 50)
    assert not speed.capture_pays(torch.device("cuda"), 3)


class Replaying:
    """A CUDA graph in place of one: it computes from the memory that it was captured with."""

    def __init__(self, evaluation):
        self.evaluation = evaluation

    def replay(self):
        own = self.evaluation
        own.result.copy_(own.unet(own.sample, own.timestep, **own.arguments).sample)


def capture(evaluation, sample, timestep):
    evaluation.sample, evaluation.timestep = torch.full_like(sample, torch.nan), torch.zeros_like(timestep)
    evaluation.result, evaluation.graph = torch.full_like(sample, torch.nan), Replaying(evaluation)


def refuse(evaluation, sample, timestep):
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("how", [capture, refuse])
def test_captured_evaluations_are_those_of_the_model(how, unet, monkeypatch):
    pipeline = DiffusionSamplingPipeline(unet, DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    (expected,) = generate(pipeline, 3, num_inference_steps=4)
    monkeypatch.setattr(prediction, "capture_pays", lambda device, evaluations: evaluations == 4)
    monkeypatch.setattr(speed.CapturedEvaluation, "_capture", how)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    calls = []
    real = speed.CapturedEvaluation.__call__
    monkeypatch.setattr(
        speed.CapturedEvaluation, "__call__", lambda *arguments: calls.append(1) or real(*arguments), raising=True
    )
    (found,) = generate(pipeline, 3, num_inference_steps=4)
    assert torch.equal(found, expected)
    assert len(calls) == 4
