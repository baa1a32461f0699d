"""Gradients that are not finite, and images that vanish while training."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from continuous_unet.base.errors import InputError
from continuous_unet.tasks.generate.training import GenerateTask
from continuous_unet.training import train
from continuous_unet.training.guards import TrainingDiverged
from continuous_unet.training.trainer import Trainer
from tests.training.runs import final_state, records


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_that_vanish_while_training(num_workers, tiny, tmp_path, images, monkeypatch):
    """They are replaced the same way each time, recorded by name, and stop the run above the limit, in one sentence."""
    config = tiny(data=str(images), steps=12, num_validation=0, max_bad_images=0.25, num_workers=num_workers)
    take_step = Trainer.take_step

    def losing(self, batches):
        if self.state.step == 3:
            for name in ("1.png", "2.png", "3.png"):
                (images / name).unlink(missing_ok=True)
        return take_step(self, batches)

    monkeypatch.setattr(Trainer, "take_step", losing)
    train(config)
    named = [r["images"] for r in records(tmp_path / "run") if "unreadable" in r]
    assert sorted(name for names in named for name in names) == ["1.png", "2.png", "3.png"]

    # the same from the checkpoint that was made as they vanished
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        assert path.name in ("step-00000009", "step-00000012")
    whole = final_state(tmp_path / "run", 12)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000012")
    train(config, resume=True)
    tensors, state, timeless = final_state(tmp_path / "run", 12)
    assert all(torch.equal(tensors[k], v) for k, v in whole[0].items())
    assert (state, timeless) == whole[1:]

    config = config.replaced(steps=20, max_bad_images=0.3)
    (images / "4.png").rename(images / "away.png")
    with pytest.raises(InputError, match=r"^4 of 12 images in .* cannot be used"):
        train(config, resume=True)
    (images / "away.png").rename(images / "4.png")

    def losing_more(self, batches):
        (images / "4.png").unlink(missing_ok=True)
        return take_step(self, batches)

    monkeypatch.setattr(Trainer, "take_step", losing_more)
    with pytest.raises(InputError, match=r"^4 of 12 images can no longer be read \(4.png\)"):
        train(config, resume=True)


def test_a_disk_that_is_gone_is_one_sentence(tiny, images, monkeypatch):
    take_step = Trainer.take_step

    def losing(self, batches):
        for path in images.glob("*.png"):
            path.unlink()
        return take_step(self, batches)

    monkeypatch.setattr(Trainer, "take_step", losing)
    with pytest.raises(
        InputError, match=r"^ten images in a row of .* can no longer be read; check that its disk is connected$"
    ):
        train(tiny(data=str(images), num_workers=1, num_validation=0, steps=50, max_bad_images=1.0))


def test_a_gradient_that_is_not_finite_changes_nothing_and_ends_the_run(tiny, tmp_path, monkeypatch, capsys):
    real = GenerateTask.loss

    def poisoned(self, step):
        return real(self, step) * torch.tensor([1, float("nan"), 1, 1])

    monkeypatch.setattr(GenerateTask, "loss", poisoned)
    with pytest.raises(TrainingDiverged, match="4 steps in a row"):
        train(tiny(max_non_finite_steps=4))
    left_out = [r for r in records(tmp_path / "run") if "non_finite" in r]
    assert [r["step"] for r in left_out] == [1, 2, 3, 4]
    assert all(len(r["images"]) == len(r["timesteps"]) == 1 and "shapes[" in r["images"][0] for r in left_out)
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()  # which is no JSON
    # the counter and the record of step 4 go on, not twice, where the run is resumed from step 3
    with pytest.raises(TrainingDiverged, match="4 steps in a row"):
        train(tiny(max_non_finite_steps=4), resume=True)
    assert [r["step"] for r in records(tmp_path / "run") if "non_finite" in r] == [1, 2, 3, 4]
    weights = load_file(tmp_path / "run" / "checkpoints" / "step-00000003" / "model.safetensors")
    assert all(torch.isfinite(w).all() for w in weights.values())
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000003" / "state.json").read_text())
    assert (state["lr_scheduler"]["last_epoch"], state["ema"]["optimization_step"], state["non_finite"]) == (0, 0, 3)
    untouched = [k for k, w in weights.items() if k.startswith("conv_out")]
    assert untouched
    assert all(float(weights[k].abs().max()) == 0 for k in untouched)  # conv_out starts at zero, and no update came
    assert "this update is left out" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_never_saved(tiny, tmp_path, monkeypatch):
    """As an update too large for float32 leaves them: the check of the gradient before it cannot see it coming."""
    real = Trainer.take_step

    def overflowing(self, batches):
        taken = real(self, batches)
        if self.state.step == 4:
            next(self.learner.model.parameters()).data[0] = float("inf")
        return taken

    monkeypatch.setattr(Trainer, "take_step", overflowing)
    with pytest.raises(TrainingDiverged, match="weights are not finite after step 6"):
        train(tiny(num_validation=0))
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
