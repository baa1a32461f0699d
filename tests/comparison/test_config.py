"""The settings of a comparison, and the trainings that they become."""

import pytest

from continuous_unet.base.errors import InputError
from continuous_unet.comparison import CompareConfig, Side

GOOD = {"data": "digits", "output": "runs/x"}


@pytest.mark.parametrize(
    ("budget", "parts"), [("images=16000", ("images", 16000.0)), ("minutes=2.5", ("minutes", 2.5))]
)
def test_budgets(budget, parts):
    assert CompareConfig(**GOOD, budget=budget).validate().budget_parts() == parts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "--data is missing"),
        ({"output": ""}, "--output is missing"),
        *(({"budget": b}, "must be images=N or minutes=M") for b in ("16000", "images=", "images=-1", "days=3")),
        ({"budget": "images=nan"}, "must be images=N or minutes=M"),
        (
            {"scheduler": "euler"},
            r"'euler' is not a sampler for --process variance-preserving; expected ddim or dpm",
        ),
        ({"process": "flow"}, r"'dpm\+\+' is not a sampler for --process flow; expected euler"),
        ({"process": "flow", "objective": "sample"}, "--objective is for --process variance-preserving"),
        ({"scheduler": "ddim:0"}, "--sampling-steps 0 must be at least 1"),
        ({"learning_rates": []}, "at least one learning rate"),
        ({"learning_rates": [1e-3, 7.0]}, "must be above 0 and below 1"),
        ({"learning_rates": ["fast"]}, "--learning-rates .*fast.* must be"),
        ({"curve_steps": [10, 2000]}, "--curve-steps 2000 must be"),
        ({"curve_steps": [10.5]}, "--curve-steps .*10.5.* must be"),
        ({"num_samples": 10}, "at least 100"),
        ({"num_seeds": 0}, "--num-seeds 0"),
        ({"jobs": 0}, "--jobs 0"),
        ({"sweep_images": 3}, "less than one batch"),
        ({"channels": 2}, "--channels 2"),
        ({"side_size": "huge"}, "--side-size 'huge'"),
    ],
    ids=str,
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        CompareConfig(**{**GOOD, **changes}).validate()


def test_settings_of_version_0_1_0_are_read():
    old = {"main_sampler": "ddim:7", "sampler_steps": [3], "scale": "base", "sides": ["ours"]}
    config = CompareConfig.from_dict({**GOOD, **old}).validate()
    assert (config.scheduler, config.sampling_steps) == ("ddim", 7)
    assert (config.curve_steps, config.side_size) == ([3], "base")


def test_only_what_is_not_measured_may_change():
    before = CompareConfig(**GOOD)
    assert CompareConfig(**GOOD, num_seeds=9, jobs=3, repeats=1, compiled=False).changed_since(before) == []
    changed = CompareConfig(**GOOD, batch_size=64, sampling_steps=3).changed_since(before)
    assert changed == ["batch_size 32 -> 64", "sampling_steps 10 -> 3"]


def test_trainings_differ_in_model_rate_length_and_seed_alone():
    config = CompareConfig(**GOOD, image_size=16, channels=1, batch_size=7, ema_decay=0.9, random_flip=True)
    one = config.train_config("a", Side("x", "", "tiny"), steps=80, learning_rate=1e-3, seed=0).validate()
    other = config.train_config(
        "b", Side("y", "", "ddpm_small", {"dropout": 0.1}), steps=80, learning_rate=4e-3, seed=2
    )
    values = other.validate().flat()
    differing = {k for k, v in one.flat().items() if values[k] != v}
    assert differing == {"output", "preset", "model_options", "learning_rate", "seed"}
    # what the comparison sets is what the trainings get
    for name in ("image_size", "channels", "batch_size", "ema_decay", "random_flip", "objective", "num_validation"):
        assert one.flat()[name] == getattr(config, name)
    # any point of the curve must be a result: no annealing towards the end of the run
    assert one.optimizer.lr_schedule == "constant_with_warmup"
    assert one.optimizer.ema
    assert one.steps // one.records.validate_every == 8
