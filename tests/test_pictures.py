"""The pictures of the docs, made by the models of the package at a small size."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from continuous_unet import ContinuousUNet2DModel, DiffusionSamplingPipeline
from continuous_unet.tasks.facts import ConditionFacts, Facts, SamplerFacts
from continuous_unet.tasks.generate.pipeline import choose_sampler, generate

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import pictures


@pytest.fixture
def pipeline():
    torch.manual_seed(0)
    unet = ContinuousUNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4, num_class_embeds=3
    )
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    facts = Facts(ConditionFacts(("a", "b"), 2, guidance_scale=2.5))
    pipeline = DiffusionSamplingPipeline(unet.eval(), DDPMScheduler(), facts)
    pipeline.set_progress_bar_config(disable=True)
    choose_sampler(pipeline, None, 20)
    return pipeline


def test_the_strip_leads_from_noise_to_the_image(pipeline):
    strip = pictures.states(pipeline, "b", 20, seed=3)
    (image,) = generate(pipeline, 1, seed=3, num_inference_steps=20, class_label="b", guidance_scale=2.5)
    assert len(strip) == len(pictures.SHOWN)
    assert torch.equal(strip[-1], image)
    distances = [float((state - image).square().mean()) for state in strip]
    assert distances[0] > 2 * distances[-3] > 0
    assert all(0 <= float(state.min()) <= float(state.max()) <= 1 for state in strip)


def test_a_row_for_each_number_of_steps_of_teacher_and_student(pipeline, monkeypatch):
    """All rows have the same seeds and classes; a student shows the numbers of steps that it has."""
    student = copy.copy(pipeline)
    student.facts = replace(pipeline.facts, sampler=SamplerFacts(((999.0,), (999.0, 400.0, 100.0)), distilled=True))
    calls = []

    def drawn(pipeline, number, **how):
        calls.append(how)
        return [torch.full((number, 1, 8, 8), how["num_inference_steps"] / 10)]

    monkeypatch.setattr(pictures, "load_pipeline", {"a": pipeline, "b": student}.__getitem__)
    monkeypatch.setattr(pictures, "generate", drawn)
    picture = np.asarray(pictures.few_steps({"teacher": "a", "student": "b"}, 3).convert("L"))
    assert [how["num_inference_steps"] for how in calls] == [1, 2, 4, 50, 1]
    assert all(how["class_label"] == [0, 1, 0] and how["seed"] == 1 for how in calls)
    assert [picture[50 * row + 25, -25] for row in range(3)] == [26, 51, 102]


def test_the_photograph_is_noisy_before_and_better_after(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures, "CROP", (150, 60, 198, 108))
    pictures.make(["denoised"], tmp_path)
    picture = np.asarray(Image.open(tmp_path / "denoised.png").convert("RGB"), np.float32)
    before, after, clean = (picture[2:-2, left : left + 48] for left in (2, 52, 102))
    assert np.array_equal(clean, np.asarray(pictures.photograph()))
    assert np.square(after - clean).mean() < 0.5 * np.square(before - clean).mean()


def test_missing_models_are_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pictures, "pretrained_models", list)
    pictures.make(["upscaled"], tmp_path)
    assert capsys.readouterr().out == "upscaled: left out, because the package has no model upscale-x2\n"
    assert not list(tmp_path.iterdir())
