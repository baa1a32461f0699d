"""Planners and policies: what is held, what guides, receding horizons, warm starts, and what is refused."""

import numpy as np
import pytest

from continuous_unet import Policy
from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.tasks.plan.pipeline import load_planner
from continuous_unet.tasks.plan.receding import PolicyError
from tests.tasks.planning import HORIZON, planner

STATE = np.array([0.5, 4.0, 5.0, -0.5], dtype=np.float32)
GOAL = np.array([-0.5, 9.0, 5.0, 0.0], dtype=np.float32)
PROCESSES = ("variance-preserving", "flow")


@pytest.mark.parametrize("process", PROCESSES)
def test_start_and_goal_are_held(process):
    made = planner("trajectory", process)(STATE[None, None], GOAL[None], num_inference_steps=3)
    assert made.shape == (1, HORIZON, 6)
    assert made[0, 0, :4] == pytest.approx(STATE, abs=1e-5)
    assert made[0, -1, :4] == pytest.approx(GOAL, abs=1e-5)
    free = planner("trajectory", process)(STATE[None, None], num_inference_steps=3)
    assert free[0, 0, :4] == pytest.approx(STATE, abs=1e-5)
    assert not np.allclose(free[0, -1, :4], GOAL, atol=0.1)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_cost_guides(process):
    found = planner("actions", process)
    observed = np.stack([STATE, GOAL])[None]

    def cost(plans):
        return (plans[:, :, 1] - 4).square().sum(dim=1)

    plain, guided = (found(observed, num_inference_steps=4, cost=chosen, cost_scale=0.02) for chosen in (None, cost))
    assert np.abs(guided[..., 1] - 4).mean() < 0.9 * np.abs(plain[..., 1] - 4).mean()
    with pytest.raises(InputError, match="a finite number for each plan"):
        found(observed, num_inference_steps=1, cost=lambda plans: plans.sum())


def test_a_plan_follows_from_its_number_and_not_from_the_batch():
    found = planner()
    observed = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    together = found(observed, num_inference_steps=2, numbers=[5, 6, 7])
    alone = found(observed[1:2], num_inference_steps=2, numbers=[6])
    assert together[1:2] == pytest.approx(alone, abs=1e-5)
    assert not np.allclose(together[1:2], found(observed[1:2], num_inference_steps=2, numbers=[7]))


def test_saving_and_loading(tmp_path):
    found = planner("trajectory")
    found.save_pretrained(tmp_path / "model")
    again = load_planner(tmp_path / "model")
    made = [one(STATE[None, None], GOAL[None], num_inference_steps=2) for one in (found, again)]
    assert np.array_equal(*made)
    (tmp_path / "model" / "continuous_unet.json").unlink()
    with pytest.raises(InputError, match="is not a planner"):
        load_planner(tmp_path / "model")


def test_a_receding_horizon():
    policy = Policy(planner(), execute=3, num_inference_steps=2)
    first = policy(STATE)
    assert first.shape == (3, 2)
    assert first == pytest.approx(policy.plans[0, :3])
    # the second plan sees both observations, and gets noise of its own
    expected = planner()(np.stack([STATE, GOAL])[None], num_inference_steps=2, numbers=[1])
    assert policy(GOAL) == pytest.approx(expected[0, :3], abs=1e-6)
    policy.reset()
    expected = planner()(np.stack([STATE, STATE])[None], num_inference_steps=2, numbers=[2])
    assert policy(STATE) == pytest.approx(expected[0, :3], abs=1e-6)
    assert Policy(planner(), execute=3)(np.stack([STATE, GOAL])).shape == (2, 3, 2)


def test_a_step_at_a_time():
    stepwise, whole = (Policy(planner(), execute=2, num_inference_steps=2) for _ in range(2))
    taken = [stepwise.step(seen) for seen in (STATE, GOAL, STATE, GOAL)]
    expected = list(whole(STATE))
    whole.observe(GOAL)
    expected += list(whole(STATE))
    assert np.array(taken) == pytest.approx(np.array(expected))


def test_a_warm_start_takes_fewer_evaluations():
    found = planner()
    calls = []
    found.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    policy = Policy(found, execute=3, num_inference_steps=4, warm_start=0.25)
    policy(STATE)
    before = policy.plans
    assert len(calls) == 4
    policy(STATE)
    assert len(calls) == 5
    shifted = np.concatenate([before[:, 3:], before[:, -1:].repeat(3, axis=1)], axis=1)
    seen = np.stack([STATE, STATE])[None]
    expected = found(seen, num_inference_steps=4, numbers=[1], previous=shifted, strength=0.25)
    assert policy.plans == pytest.approx(expected, abs=1e-6)


def test_a_policy_of_states():
    policy = Policy(planner("trajectory"), execute=2, num_inference_steps=2)
    actions = policy(STATE, goal=GOAL)
    assert actions == pytest.approx(policy.plans[0, :2, 4:])
    assert policy.plans[0, -1, :4] == pytest.approx(GOAL, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (STATE[:3], r"shape \(3,\); this planner takes \(4,\)"),
        (np.full(4, np.nan), "not finite"),
        (["a"] * 4, "expected real numbers"),
        (np.zeros((2, 2, 4)), "this planner takes"),
    ],
)
def test_observations_that_cannot_be_used(given, line):
    with pytest.raises(PolicyError, match=line):
        Policy(planner(), num_inference_steps=1)(given)


def test_settings_that_cannot_be_used():
    for options in ({"execute": 9}, {"execute": 0}, {"num_inference_steps": 0}, {"warm_start": 0.0}):
        with pytest.raises(PolicyError):
            Policy(planner(), **options)
    policy = Policy(planner(), num_inference_steps=1)
    with pytest.raises(PolicyError, match="makes no trajectories"):
        policy(STATE, goal=GOAL)
    policy(STATE)
    with pytest.raises(PolicyError, match="reset"):
        policy(np.stack([STATE, STATE]))


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planner().save_pretrained("model")
    np.savez("seen.npz", observations=np.stack([GOAL, STATE, GOAL]))
    assert main(["plan", "model", "seen.npz", "--num", "2", "--steps", "2", "--device", "cpu"]) == 0
    expected = planner()(np.stack([STATE, GOAL])[None].repeat(2, axis=0), num_inference_steps=2)
    with np.load("plan.npz") as made:
        assert made["actions"] == pytest.approx(expected, abs=1e-6)
    assert "2 plans of 8 time steps" in capsys.readouterr().out
    np.savez("other.npz", start=STATE)
    np.savez("short.npz", observations=STATE[:3])
    for words, line in (
        (["seen.npz"], "exists"),
        (["other.npz", "-o", "new.npz"], "no array observations (it has start)"),
        (["short.npz", "-o", "new.npz"], "this planner takes (4,)"),
        (["none.npz", "-o", "new.npz"], "does not exist"),
        (["seen.npz", "-o", "new.csv"], "must end with .npz"),
    ):
        assert main(["plan", "model", *words, "--device", "cpu"]) == 2
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1
    np.savez("data.npz", actions=np.eye(9), observations=np.eye(9), episode_ends=[9])
    words = "train --task plan --data data.npz --output run --preset tiny --device cpu --horizon 7"
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert "sample_size is 7; this model needs multiples of 4 (nearest: 4 or 8): pad or resize" in error
    assert "(--horizon)" in error
