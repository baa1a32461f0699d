"""`cunet schedule`: found times are saved with the weights that they belong to, and used for their number of steps."""

import json

import pytest
import torch

from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.schedule_search import Searched
from continuous_unet.evaluation.quality.generation import load_sampler
from continuous_unet.models.fingerprint import fingerprint
from continuous_unet.tasks.facts import SamplerFacts
from continuous_unet.tasks.generate import schedule
from continuous_unet.tasks.generate.options import SampleOptions, ScheduleOptions
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline, choose_sampler, own_tables
from continuous_unet.tasks.generate.run import sample_images
from continuous_unet.tasks.generate.schedule import find_schedules
from continuous_unet.tasks.loading import load_pipeline
from tests.deploy.conftest import conditional, continuous
from tests.tasks.test_generation import training_scheduler

SMALL = {"block_out_channels": (8,), "mid_block_type": None, "num_solver_steps": 1}


@pytest.fixture(params=["epsilon", "flow_prediction"])
def model(request, tmp_path):
    torch.manual_seed(0)
    unet = continuous(**SMALL, num_class_embeds=3 if request.param == "epsilon" else None)
    DiffusionSamplingPipeline(unet, training_scheduler(request.param)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_times_are_saved_and_used(model, tmp_path):
    options = ScheduleOptions(str(model), steps=[2, 3], num=3, batch_size=2, device="cpu").validate()
    first = find_schedules(options)
    again = find_schedules(ScheduleOptions(str(model), steps=[4], num=2, device="cpu"))
    pipeline = load_pipeline(model)
    times = [list(one.times) for one in first.found + again.found]
    assert [list(one) for one in pipeline.facts.sampler.times] == times, "those of other numbers stay"
    assert pipeline.facts.sampler.weights == fingerprint(pipeline.unet)

    def used(scheduler, steps):
        fresh = load_pipeline(model)
        choose_sampler(fresh, scheduler, steps)
        fresh.scheduler.set_timesteps(steps)
        return fresh.scheduler.timesteps.tolist()

    assert used(None, 3) == used("own", 3) == pytest.approx(times[1])
    assert type(pipeline.scheduler).__name__.startswith(("DDPM", "Flow"))
    fresh = load_pipeline(model)
    choose_sampler(fresh, None, 5)
    assert not hasattr(fresh.scheduler, "tables")
    with pytest.raises(InputError, match=r"no searched times for 5 steps \(it has: 2, 3, 4\); see `cunet schedule`"):
        choose_sampler(fresh, "own", 5)
    with pytest.raises(InputError, match="no searched times for 5 steps"):  # as `cunet evaluate generate` loads it
        load_sampler(model, "own", torch.device("cpu"), 5)
    chosen = "ddim" if hasattr(pipeline.scheduler, "alphas_cumprod") else "euler"
    choose_sampler(fresh, chosen, 3)
    assert not hasattr(fresh.scheduler, "tables"), "a named scheduler turns them off"
    asked = {"num": 2, "steps": 3, "device": "cpu", "classes": 1 if chosen == "ddim" else None}
    assert sample_images(SampleOptions(str(model), str(tmp_path / "a.png"), **asked)).notes() == []
    tables = own_tables(pipeline.facts, process_of(pipeline.scheduler)).values()
    assert [[row.timestep for row in rows] for rows in tables] == times, "exports write these"
    orders = [one.order for one in first.found + again.found]
    assert [2 if any(row.correction for row in rows) else 1 for rows in tables] == orders


def test_the_order_of_each_number_of_steps_is_saved(model, monkeypatch):
    """Those of other numbers stay."""
    order = {2: 1, 4: 2, 5: 1, 6: 2}

    def searched(process, predictors, noise, numbers):
        return [Searched((999.0, *range(n - 1, 0, -1)), order[n], 0.1, 0.2) for n in numbers]

    monkeypatch.setattr(schedule, "search_times", searched)
    find_schedules(ScheduleOptions(str(model), steps=[4, 5], num=1, device="cpu"))
    result = find_schedules(ScheduleOptions(str(model), steps=[6, 2], num=1, device="cpu"))
    assert load_pipeline(model).facts.sampler.second_order == (4, 6)
    assert result.to_text().startswith(
        "6 steps of second order: error 0.1000 (evenly spread, first order: 0.2000), times"
    )
    assert [row["order"] for row in result.to_dict()["schedules"]] == [2, 1]


def test_an_order_without_searched_times_is_refused():
    with pytest.raises(ValueError, match=r"second_order is \[3\]; expected lengths of lists in times"):
        SamplerFacts(((9.0, 1.0),), second_order=(3,))
    for more in ({"distilled": True}, {"fresh_noise": True}):
        with pytest.raises(ValueError, match="second_order is for searched times"):
            SamplerFacts(((9.0, 1.0),), second_order=(2,), **more)


def test_times_of_other_weights_are_left_out_with_a_line(tmp_path, capsys):
    pipeline = DiffusionSamplingPipeline(continuous(**SMALL), training_scheduler("flow_prediction"))
    pipeline.save_pretrained(tmp_path / "model")
    find_schedules(ScheduleOptions(str(tmp_path / "model"), steps=[2], num=2, device="cpu"))
    facts = (tmp_path / "model" / "continuous_unet.json").read_text()
    with torch.no_grad():
        pipeline.unet.conv_out.bias += 1e-6
    pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "continuous_unet.json").write_text(facts)
    words = ["sample", str(tmp_path / "model"), "--steps", "2", "--num", "1", "--output", str(tmp_path / "a.png")]
    assert main(words) == 0
    assert "belong to other weights, and were not used; search again with `cunet schedule`" in capsys.readouterr().err
    assert main([*words, "--scheduler", "own", "--overwrite"]) == 2
    assert "no searched times for 2 steps (it has: none)" in capsys.readouterr().err


def test_models_with_texts_are_searched_with_prompts(tmp_path):
    conditional().save_pretrained(tmp_path / "model")
    common = {"steps": [2], "num": 2, "device": "cpu"}
    found = [
        find_schedules(ScheduleOptions(str(tmp_path / "model"), prompt=prompt, **common)).found[0]
        for prompt in ([], ["a blue square", "a red circle"], ["a red circle", "a blue square"])
    ]
    assert len({one.even_error for one in found}) == 3, "the prompts take turns"
    assert load_pipeline(tmp_path / "model").facts.sampler.times == (found[-1].times,)


def test_what_cannot_be_is_refused(model):
    for steps, message in (([], "at least one number"), ([0], "--steps 0 must be at least 1"), ([41], "at most 40")):
        with pytest.raises(InputError, match=message):
            find_schedules(ScheduleOptions(str(model), steps=steps))
    with pytest.raises(InputError, match="a prompt was given, but this model was trained without text"):
        find_schedules(ScheduleOptions(str(model), prompt=["a cat"]))
    path = model / "continuous_unet.json"
    known = SamplerFacts(((1000.0,),), distilled=True)
    path.write_text(json.dumps({"sampler": {"times": [list(known.times[0])], "distilled": True}}))
    with pytest.raises(InputError, match="was distilled, and has sampling times of its own"):
        find_schedules(ScheduleOptions(str(model)))
