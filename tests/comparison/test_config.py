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
        ({"data": ""}, "no data"),
        ({"output": ""}, "no output"),
        *(({"budget": b}, "must be images=N or minutes=M") for b in ("16000", "images=", "images=-1", "days=3")),
        ({"budget": "images=nan"}, "must be images=N or minutes=M"),
        ({"main_sampler": "euler:10"}, "ddim:STEPS"),
        ({"main_sampler": "ddim"}, "ddim:STEPS"),
        ({"main_sampler": "ddim:0"}, "ddim:STEPS"),
        ({"learning_rates": []}, "at least one rate"),
        ({"learning_rates": [1e-3, 7.0]}, r"in \(0, 1\)"),
        ({"learning_rates": ["fast"]}, "an entry of learning_rates='fast' must be float"),
        ({"sampler_steps": [10, 2000]}, "1 to 1000"),
        ({"sampler_steps": [10.5]}, "an entry of sampler_steps=10.5 must be int"),
        ({"num_samples": 10}, "at least 100"),
        ({"num_seeds": 0}, "num_seeds=0"),
        ({"jobs": 0}, "jobs=0"),
        ({"sweep_images": 3}, "less than one batch"),
        ({"channels": 2}, "channels=2"),
        ({"scale": "huge"}, "scale='huge'"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        CompareConfig(**{**GOOD, **changes}).validate()


def test_trainings_differ_in_model_rate_length_and_seed_alone():
    config = CompareConfig(**GOOD, image_size=16)
    one = config.train_config("a", Side("x", "", "tiny"), steps=80, learning_rate=1e-3, seed=0).validate()
    other = config.train_config(
        "b", Side("y", "", "ddpm_small", {"dropout": 0.1}), steps=80, learning_rate=4e-3, seed=2
    )
    differing = {k for k, v in one.to_dict().items() if other.validate().to_dict()[k] != v}
    assert differing == {"output", "preset", "model_options", "learning_rate", "seed"}
    # any point of the curve must be a result: no annealing towards the end of the run
    assert one.lr_schedule == "constant_with_warmup"
    assert one.ema
    assert one.steps // one.validate_every == 8
