"""Arguments of `integrate`: what is wrong is named, with a remedy."""

import builtins
import subprocess
import sys

import pytest
import torch

from continuous_unet.ode import State, integrate

STATE = State(torch.zeros(2), torch.zeros(2))
FIELD = lambda t, x, v: -x  # noqa: E731

WRONG = [
    ({"method": "euler"}, "expected one of reversible_leapfrog, drift_kick_drift"),
    ({"gradient": "magic"}, "expected one of backprop, checkpoint, reversible, adjoint"),
    ({"num_steps": None}, "expected an integer of at least 1"),
    ({"num_steps": 0}, "num_steps=0"),
    ({"num_steps": 2.0}, "num_steps=2.0"),
    ({"num_steps": True}, "num_steps=True"),
    ({"method": "rk4", "gradient": "reversible"}, "or gradient='checkpoint'"),
    ({"gradient": "adjoint"}, "use one of midpoint, heun, rk4, dopri5"),
    ({"method": "dopri5", "gradient": "reversible"}, "needs fixed steps"),
    ({"method": "kick_drift"}, r"split_field\(\)"),
    ({"t1": 0.0}, "do not span an interval"),
    ({"t1": float("nan")}, "do not span an interval"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[str(changes) for changes, _ in WRONG])
def test_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        integrate(FIELD, STATE, **{"num_steps": 2, **changes})


@pytest.mark.parametrize(
    ("v", "message"),
    [
        (torch.zeros(3), r"x has shape \(2,\)"),
        (torch.zeros(2, dtype=torch.float64), "torch.float64"),
    ],
)
def test_states_that_do_not_match(v, message):
    with pytest.raises(ValueError, match=message):
        integrate(FIELD, State(torch.zeros(2), v), num_steps=1)


def test_integer_state():
    with pytest.raises(ValueError, match="floating"):
        integrate(FIELD, State(torch.zeros(2).long(), torch.zeros(2).long()), num_steps=1)


def test_missing_torchdiffeq_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "torchdiffeq":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"continuous-unet\[adaptive\]"):
        integrate(FIELD, STATE, method="dopri5")


def test_no_float64_is_made_of_float32():
    seen = set()

    def field(t, x, v):
        seen.add(x.dtype)
        return -x

    for method in ("reversible_leapfrog", "rk4"):
        solution = integrate(field, STATE, num_steps=3, method=method)
        assert solution.state.x.dtype == torch.float32
    assert seen == {torch.float32}


def test_the_package_imports_torch_and_nothing_of_ours():
    code = (
        "import sys, continuous_unet; before = set(sys.modules); import continuous_unet.ode; "
        "print(sorted(m for m in set(sys.modules) - before if m.startswith(('continuous_unet.', 'diffusers', "
        "'torchdiffeq')) and not m.startswith('continuous_unet.ode')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
