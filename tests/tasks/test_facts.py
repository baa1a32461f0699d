"""The facts that are saved with a model: they come back, and hostile files are refused in one line."""

import json

import pytest
import torch
from diffusers import DDPMScheduler

from continuous_unet import ContinuousUNet2DModel, DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.tasks.facts import FILE, ConditionFacts, Facts, read_facts, write_facts
from continuous_unet.tasks.loading import load_pipeline

FACTS = Facts(conditions=ConditionFacts(("cat", "dog", "dÿr\n"), 3, guidance_scale=2.5))


def unet(classes=4):
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16)}
    return ContinuousUNet2DModel(**sizes, norm_num_groups=4, num_class_embeds=classes)


def test_they_are_saved_and_loaded_with_the_pipeline(tmp_path):
    DiffusionSamplingPipeline(unet(), DDPMScheduler(), FACTS).save_pretrained(tmp_path)
    assert load_pipeline(tmp_path).facts == FACTS
    assert DiffusionSamplingPipeline.from_pretrained(tmp_path).facts == FACTS
    half = load_pipeline(tmp_path, dtype=torch.float16)
    assert half.facts == FACTS
    DiffusionSamplingPipeline(half.unet, DDPMScheduler()).save_pretrained(tmp_path)  # those of before are gone
    assert not (tmp_path / FILE).exists()
    assert load_pipeline(tmp_path).facts == Facts()


def test_only_what_differs_from_the_default_is_written(tmp_path):
    write_facts(tmp_path, Facts(conditions=ConditionFacts(null_class=3)))
    assert json.loads((tmp_path / FILE).read_text()) == {"conditions": {"null_class": 3}}


HOSTILE = {
    "[]": "expected a JSON object",
    '{"conditions": 3}': "conditions is 3; expected an object",
    '{"spells": {}}': "'spells' is an unknown entry",
    '{"conditions": {"spell": 1}}': "conditions.'spell' is an unknown entry",
    '{"conditions": {"null_class": true}}': "null_class is True; expected an integer",
    '{"conditions": {"null_class": -1}}': "null_class is -1; expected a number of at least 0",
    '{"conditions": {"classes": "cat"}}': "classes is 'cat'; expected a list",
    '{"conditions": {"classes": ["cat", 1]}}': r"classes\[1\] is 1; expected a text",
    '{"conditions": {"classes": ["cat", "cat"]}}': "classes has a name twice",
    '{"conditions": {"guidance_scale": NaN}}': "guidance_scale is nan; expected a number",
    '{"conditions": {"guidance_scale": 1e999}}': "guidance_scale is inf; expected a number",
    '{"conditions": {"guidance_scale": 1' + 400 * "0" + "}}": "expected a smaller number",
    '{"conditions": {"guidance_scale": null}}': "guidance_scale is None; expected a number",
    '{"solver_steps": {"steps": [1]}}': "solver_steps.timesteps is missing",
    "{": "cannot be read as JSON",
}


TABLES = {
    ("[]", "9", "[1]", "[[]]"): "steps has 0 bands of 9 timesteps",
    ("[1]", "0", "[1]", "[[1]]"): "steps has 1 bands of 0 timesteps",
    ("[1]", "9", "[]", "[]"): "depths must be numbers of solver steps, 1 to 64",
    ("[65]", "9", "[65]", "[[1]]"): "depths must be numbers of solver steps, 1 to 64",
    ("[2]", "9", "[1]", "[[1]]"): "steps has a number that is not among depths",
    ("[1]", "9", "[1]", "[[1, 2]]"): "losses must have a row for each of depths",
}
for values, message in TABLES.items():
    names = ("steps", "timesteps", "depths", "losses")
    table = ", ".join(f'"{name}": {value}' for name, value in zip(names, values, strict=True))
    HOSTILE[f'{{"solver_steps": {{{table}}}}}'] = message


@pytest.mark.parametrize("content", HOSTILE)
def test_hostile_files_are_refused_in_one_line(content, tmp_path):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match=HOSTILE[content]) as refused:
        read_facts(tmp_path)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    "facts",
    [ConditionFacts(null_class=2), ConditionFacts(null_class=4), ConditionFacts(("a", "b")), ConditionFacts(("a",), 3)],
    ids=str,
)
def test_facts_of_another_model_are_refused(facts):
    with pytest.raises(InputError, match=r"the facts do not fit the model: conditions\.") as refused:
        DiffusionSamplingPipeline(unet(), DDPMScheduler(), Facts(conditions=facts))
    assert len(str(refused.value).splitlines()) == 1
