"""Steps that are not waited for: on a CPU they do what a GPU does, except that there is no CUDA graph."""

import json

import pytest
import torch
from safetensors.torch import load_file

from continuous_unet.tasks.generate.training import GenerateTask
from continuous_unet.training import on_device, run, train
from continuous_unet.training.captured import CapturedStep
from continuous_unet.training.guards import TrainingDiverged
from continuous_unet.training.trainer import Trainer
from tests.training.runs import checkpoint_tensors, records

BAD = 1
"""The training step, counted from 0, whose loss is not finite."""


@pytest.fixture
def losing(monkeypatch):
    real = GenerateTask.loss
    monkeypatch.setattr(
        GenerateTask, "loss", lambda task, step: real(task, step) * (float("nan") if step.step == BAD else 1.0)
    )


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(run, "trains_on_device", lambda config, accelerator: True)
    monkeypatch.setattr(on_device, "WINDOW", 4)


RARE = {"log_every": 5, "steps": 9, "checkpoint_every": 9, "validate_every": 9, "sample_every": 100}


def test_steps_that_are_not_waited_for_are_the_same(tiny, tmp_path, losing, request):
    def make(name, **changes):
        return tiny(**{**RARE, "gradient_accumulation_steps": 2, "output": str(tmp_path / name), **changes})

    train(make("waiting"))
    request.getfixturevalue("on_cpu")
    train(make("device"))
    waited, found = (records(tmp_path / name) for name in ("waiting", "device"))
    assert [r["step"] for r in found] == [r["step"] for r in waited]
    for one, other in zip(waited, found, strict=True):
        assert one.get("images") == other.get("images")
        for key in one.keys() & {"loss", "validation_loss", "gradient_norm", "learning_rate", "timesteps"}:
            assert other[key] == pytest.approx(one[key], rel=1e-3), key
    assert [r["step"] for r in found if "non_finite" in r] == [BAD + 1]
    folders = [tmp_path / name / "checkpoints" / "step-00000009" for name in ("waiting", "device")]
    for file in ("model", "ema", "optimizer"):
        tensors, others = (load_file(folder / f"{file}.safetensors") for folder in folders)
        assert tensors.keys() == others.keys()
        assert all(torch.allclose(tensors[name], others[name], rtol=1e-3, atol=1e-5) for name in tensors)
    states = [json.loads((folder / "state.json").read_text()) for folder in folders]
    for key in ("step", "images_seen", "non_finite"):
        assert states[0][key] == states[1][key], key
    assert states[0]["lr_scheduler"]["last_epoch"] == states[1]["lr_scheduler"]["last_epoch"] == 8
    assert states[0]["ema"]["optimization_step"] == states[1]["ema"]["optimization_step"] == 8

    # and they go on exactly
    real = Trainer.record

    def dying(self, **values):
        real(self, **values)
        if self.state.step == 6:
            raise RuntimeError("killed")

    part = make("part", checkpoint_every=5, log_every=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "record", dying)
        with pytest.raises(RuntimeError, match="killed"):
            train(part)
    train(part.replaced(log_every=5), resume=True)
    tensors, others = (checkpoint_tensors(tmp_path / name, 9) for name in ("device", "part"))
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []


def test_a_run_without_finite_gradients_ends_some_steps_later(tiny, tmp_path, on_cpu, monkeypatch):
    monkeypatch.setattr(
        GenerateTask, "loss", lambda task, step: step.model(step.noise, step.times).sample.flatten(1).sum(1) / 0
    )
    with pytest.raises(TrainingDiverged, match="in 3 steps in a row, up to step 3;"):
        train(tiny(**RARE, max_non_finite_steps=3))
    assert [r["step"] for r in records(tmp_path / "run") if "non_finite" in r] == [1, 2, 3]


def test_a_step_that_cannot_be_captured_is_taken_without_a_graph(monkeypatch):
    said, taken = [], []
    step = CapturedStep(lambda inputs: taken.append(inputs["x"]) or inputs["x"], said.append)
    monkeypatch.setattr(CapturedStep, "_warm_up", lambda self, inputs: self.compute(inputs))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def refuse(self, inputs):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(CapturedStep, "_capture", refuse)
    for number in range(6):
        assert step({"x": torch.tensor(number)}) == number
    assert len(taken) == 6
    assert said == ["training steps are taken without a CUDA graph (operation not permitted)"]


@pytest.mark.parametrize(
    "task", [{"class_conditional": True}, {"task": "denoise", "preset": "restorer", "fit": "crop"}]
)
def test_a_step_that_is_replayed_depends_on_its_tensors_alone(task, tiny, tmp_path, on_cpu, monkeypatch):
    """All that a graph is given are tensors that stay in their places: what it computes must follow from those."""
    norms = {}
    for captured in (False, True):
        monkeypatch.setattr(on_device, "has_graphs", lambda device, captured=captured: captured)
        config = tiny(**task, output=str(tmp_path / str(captured)), random_crop=False)
        with run.RunFolder(config.output) as folder:
            trainer = run.assemble(config, folder, resume=False)
            assert (trainer.captured is None) is not captured
            if captured:
                static = {}

                def replay(inputs, trainer=trainer, static=static):
                    for name, tensor in inputs.items():
                        static.setdefault(name, torch.empty_like(tensor)).copy_(tensor)
                    return trainer.captured.compute(static)

                monkeypatch.setattr(CapturedStep, "__call__", lambda self, inputs, replay=replay: replay(inputs))
            batches = trainer.data.loader(4)
            norms[captured] = [float(trainer.take_step(batches)) for _ in range(3)]
            batches.close()
            trainer.settle()
            assert trainer.state.step == 3
            trainer.leave()
    assert norms[True] == norms[False]
    assert len(set(norms[True])) == 3
