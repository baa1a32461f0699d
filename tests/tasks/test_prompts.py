"""Prompts in the sampling pipeline and in `cunet sample`: what they lead to, and what is refused."""

import dataclasses
import logging

import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from continuous_unet import ContinuousUNet2DModel, DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.diffusion.samplers import make_scheduler
from continuous_unet.tasks.facts import ConditionFacts, Facts, TextFacts
from continuous_unet.tasks.loading import load_pipeline, load_restorer
from tests.text.encoders import KINDS, make_encoder

RED, BLUE = "a red square", "a blue circle"


def pipeline(encoder, **settings):
    """A model of random weights that reads texts; samples are small, so that few weights tell texts apart."""
    torch.manual_seed(0)
    sizes = {"sample_size": 8, "block_out_channels": (8, 8), "norm_num_groups": 4, **settings}
    unet = ContinuousUNet2DModel(**sizes, **(encoder.model_arguments() if encoder else {})).eval()
    for parameter in unet.parameters():  # those that start at zero would hide the text
        torch.nn.init.normal_(parameter, std=0.2)
    classes = ConditionFacts(("one", "two"), 2) if "num_class_embeds" in settings else ConditionFacts()
    text = TextFacts(**encoder.describe()) if encoder else None
    made = DiffusionSamplingPipeline(unet, make_scheduler("ddim", DDPMScheduler().config), Facts(classes, text=text))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def by_text():
    return pipeline(make_encoder("built-in", None))


def sample(made, number=2, **request):
    generators = [torch.Generator().manual_seed(k) for k in range(number)]
    return made(number, generators, 5, output_type="pt", **request).images


@pytest.mark.parametrize("kind", KINDS)
def test_images_follow_the_prompt(kind, tmp_path):
    made = pipeline(make_encoder(kind, tmp_path))
    red, blue = sample(made, prompt=RED), sample(made, prompt=BLUE)
    assert (red - blue).abs().max() > 1e-2
    each = sample(made, prompt=[RED, BLUE])
    torch.testing.assert_close(each, torch.stack([red[0], blue[1]]), atol=1e-4, rtol=0)
    assert torch.equal(sample(made), sample(made, prompt=""))


def test_guidance_leads_from_the_negative_prompt_to_the_prompt(by_text):
    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(sample(by_text, prompt=RED, guidance_scale=0.0), sample(by_text), **close)
    away = sample(by_text, prompt=RED, negative_prompt=BLUE, guidance_scale=0.0)
    torch.testing.assert_close(away, sample(by_text, prompt=BLUE), **close)
    guided = sample(by_text, prompt=RED, negative_prompt=[BLUE, ""], guidance_scale=2.0)
    torch.testing.assert_close(guided[1], sample(by_text, prompt=RED, guidance_scale=2.0)[1], **close)
    assert (guided[0] - sample(by_text, prompt=RED, guidance_scale=2.0)[0]).abs().max() > 1e-2


def test_classes_and_prompts_together():
    made = pipeline(make_encoder("built-in", None), num_class_embeds=3)
    images = [sample(made, 1, prompt=p, class_labels=c) for p in (RED, None) for c in ("one", "two", None)]
    for i, image in enumerate(images):
        assert all((image - other).abs().max() > 1e-3 for other in images[:i])
    either = sample(made, 1, prompt=RED, guidance_scale=0.0)
    torch.testing.assert_close(either, images[-1], atol=1e-4, rtol=0)


def test_what_is_refused(by_text):
    without = pipeline(None)
    for request in ({"prompt": RED}, {"negative_prompt": RED}):
        with pytest.raises(InputError, match="a prompt was given, but this model was trained without text; leave it"):
            sample(without, **request)
    with pytest.raises(InputError, match="3 texts were given as prompt; expected one, or 2, the number of images"):
        sample(by_text, prompt=[RED] * 3)
    with pytest.raises(InputError, match="negative_prompt must be a text, or one for each image"):
        sample(by_text, negative_prompt=[1, 2])
    with pytest.raises(InputError, match="leads towards a class or a text, and none was asked for"):
        sample(by_text, guidance_scale=2.0)
    unnamed = DiffusionSamplingPipeline(by_text.unet, by_text.scheduler)
    with pytest.raises(InputError, match=r"the model reads text, and continuous_unet.json, which says how, is missing"):
        sample(unnamed)
    full = dataclasses.replace(by_text.facts.text, empty_prompt=False)
    always = DiffusionSamplingPipeline(by_text.unet, by_text.scheduler, Facts(text=full))
    with pytest.raises(InputError, match="trained with captions, none of which was dropped: give a prompt"):
        sample(always)
    with pytest.raises(InputError, match="without dropping its classes or captions"):
        sample(always, prompt=RED, guidance_scale=2.0)
    assert sample(always, prompt=RED, negative_prompt=BLUE, guidance_scale=2.0).shape == (2, 3, 8, 8)


def test_a_prompt_that_is_too_long_is_named_once(by_text, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            sample(by_text, prompt=" ".join([RED] * 9))
    (record,) = caplog.records
    start, length = "a red square a red square a red square a red square a red", by_text.facts.text.max_length
    assert record.getMessage() == f"the prompt '{start}…' is longer than the {length} tokens of the model, and is cut"


def test_the_verb_draws_a_row_for_each_prompt(by_text, tmp_path, capsys):
    by_text.save_pretrained(tmp_path / "model")
    options = ["sample", str(tmp_path / "model"), "--steps", "2", "--num", "3"]
    assert main([*options, "--prompt", RED, BLUE, "--guidance", "2", "-o", str(tmp_path / "images")]) == 0
    assert len(list((tmp_path / "images").iterdir())) == 6
    assert main([*options, "--prompt", RED, BLUE, "--negative-prompt", "circle", "-o", str(tmp_path / "a.png")]) == 0
    assert main([*options, "-o", str(tmp_path / "b.png")]) == 0
    with Image.open(tmp_path / "a.png") as rows, Image.open(tmp_path / "b.png") as plain:
        assert rows.width > plain.width + 40  # the labels
    loaded = load_pipeline(tmp_path / "model")
    assert torch.equal(sample(loaded, prompt=RED), sample(by_text, prompt=RED))
    with pytest.raises(InputError, match="is conditioned on text; denoise takes models without text"):
        load_restorer(tmp_path / "model", "denoise")
