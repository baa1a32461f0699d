"""Exported planners: plans as PyTorch makes them, and a policy without this package."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from continuous_unet import Policy
from continuous_unet.base.errors import InputError
from continuous_unet.base.signals import StopRequest
from continuous_unet.cli.main import main
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.policies import export_planner
from continuous_unet.deploy.standalone import policy as standalone
from continuous_unet.deploy.standalone.runtime import ExportedModelError
from continuous_unet.tasks.plan.receding import PolicyError
from tests.tasks.planning import planner

STATE = np.array([0.5, 4.0, 5.0, -0.5], dtype=np.float32)
GOAL = np.array([-0.5, 9.0, 5.0, 0.0], dtype=np.float32)
KINDS = {"actions": ("actions", "variance-preserving"), "trajectory": ("trajectory", "flow")}


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    """The kind of a planner, and the folder of its export."""
    folder = tmp_path_factory.mktemp("planner") / "exported"
    info = export_planner(planner(*KINDS[request.param]), ExportOptions(output=str(folder)), stop=StopRequest())
    assert info["parity"]["max_error"] < 1e-4
    return request.param, folder


def test_the_policy_plans_as_pytorch_does(exported):
    kind, folder = exported
    goal = {"goal": GOAL} if kind == "trajectory" else {}
    ours = Policy(planner(*KINDS[kind]), execute=3, num_inference_steps=3, warm_start=0.5, seed=7)
    theirs = standalone.Policy(folder, execute=3, steps=3, warm_start=0.5, seed=7)
    for seen in (STATE, GOAL, STATE):
        assert theirs(seen, **goal) == pytest.approx(ours(seen, **goal), abs=1e-4)
        assert theirs.plans == pytest.approx(ours.plans, abs=1e-4)


def test_the_folder_works_alone(exported, tmp_path):
    kind, folder = exported
    copied = tmp_path / "elsewhere"
    shutil.copytree(folder, copied)
    names = {"observations": np.stack([STATE, GOAL])} if kind == "actions" else {"start": STATE, "goal": GOAL}
    np.savez(tmp_path / "seen.npz", **names)
    code = (
        "import sys, runpy; sys.modules.update(torch=None, diffusers=None, continuous_unet=None);"
        "runpy.run_path('policy.py', run_name='__main__')"
    )
    words = [str(tmp_path / "seen.npz"), "--output", str(tmp_path / "plan.npz"), "--steps", "3"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=copied, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "a plan takes" in done.stdout
    found = planner(*KINDS[kind])
    if kind == "actions":
        expected = found(np.stack([STATE, GOAL])[None], num_inference_steps=3)
    else:
        expected = found(STATE[None, None], GOAL[None], num_inference_steps=3)
    with np.load(tmp_path / "plan.npz") as made:
        assert made["actions"] == pytest.approx(expected[:, :, found.plan.num_states :], abs=1e-4)


def longer(info):
    """What export.json would say of a planner with a longer horizon."""
    first, *others = info["inputs"]
    shape = [*first["shape"][:2], 2 * first["shape"][2]]
    return {"plan": {**info["plan"], "horizon": shape[2]}, "inputs": [{**first, "shape": shape}, *others]}


def test_what_the_policy_cannot_take_is_refused(exported):
    _, folder = exported
    for options in ({"execute": 2.5}, {"steps": 2.5}, {"threads": 0}, {"seed": "x"}):
        with pytest.raises(PolicyError, match=f"{next(iter(options))}="):
            standalone.Policy(folder, **options)
    policy = standalone.Policy(folder)
    for seen, message in (
        ([1, 2, [3]], "rows have different lengths"),
        (STATE + 1j, "expected real numbers"),
        (np.full(4, 1e300), r"not finite at \[0\]: inf"),
    ):
        with pytest.raises(PolicyError, match=message):
            policy(seen)


def test_a_planner_is_no_model_of_images(exported, capsys):
    for verb in (["run"], ["app", "--compute", "server", "--no-open"]):
        assert main([verb[0], str(exported[1]), *verb[1:]]) == 2
        assert "makes plans and no images; use policy.py in its folder" in capsys.readouterr().err


def test_an_earlier_plan_is_not_written_over(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.npz").write_bytes(b"mine")
    assert standalone.main(["observation.npz"]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "plan.npz").read_bytes() == b"mine"


def test_damaged_exports_are_refused(exported, tmp_path):
    _, folder = exported
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    info = json.loads((copied / "export.json").read_text())
    for change, line in (
        ({"task": "generation"}, "expected one for plan"),
        ({"format_version": 99}, "format version 99"),
        ({"network": "../network.onnx"}, "outside its folder"),
        ({"plan": {}}, "cannot be used"),
        ({"inputs": []}, "do not fit"),
        ({"plan": {**info["plan"], "history": 10**9}}, "do not fit"),
        ({"plan": {**info["plan"], "learned": "x"}}, "do not fit"),
        ({"plan": {**info["plan"], "horizon": 2 * info["plan"]["horizon"]}}, "do not fit"),
        ({"schedule": {}}, "cannot be used"),
        (longer(info), "is not the network that export.json describes"),
    ):
        (copied / "export.json").write_text(json.dumps({**info, **change}))
        with pytest.raises(ExportedModelError, match=line):
            standalone.Policy(copied)
    (copied / "export.json").write_text(json.dumps(info))
    (copied / "network.onnx").write_bytes(b"x" + (copied / "network.onnx").read_bytes()[1:])
    with pytest.raises(ExportedModelError, match="not as it was exported"):
        standalone.Policy(copied)
    with pytest.raises(ExportedModelError, match="holds no exported model"):
        standalone.Policy(tmp_path)


def test_options_of_images_are_refused(tmp_path):
    for options in ({"precision": "fp16"}, {"static_shape": "1x8x8"}, {"web": True}, {"format": "openvino"}):
        with pytest.raises(InputError, match="models of images"):
            export_planner(planner(), ExportOptions(output=str(tmp_path / "new"), **options), stop=StopRequest())
