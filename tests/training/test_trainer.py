"""Training as a whole: what it writes, exact resumption, signals."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from continuous_unet.base.errors import InputError
from continuous_unet.base.threads import COUNTS, CoreShare
from continuous_unet.tasks.generate import training as generate
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training import TrainConfig, outputs, train
from continuous_unet.training.trainer import Trainer
from tests.training.runs import assert_same_runs, records


def test_a_run_leaves_everything_that_is_promised(tiny, tmp_path, capsys):
    config = tiny()
    result = train(config)
    run = tmp_path / "run"
    assert result.steps == 6
    assert result.images_seen == 24
    assert result.stopped_by is None
    assert TrainConfig.load(run / "config.yaml") == config
    facts = json.loads((run / "run.json").read_text())
    assert facts["num_parameters"] == result.num_parameters
    assert facts["data"]["num_images"] == 4092
    assert Image.open(run / "samples" / "step-00000006.png").size == (2 * 48 + 6, 48 + 4)
    assert Image.open(run / "loss.png").width > 100
    assert "cunet sample" in (run / "report.md").read_text()
    assert "4,096 images from shapes" in capsys.readouterr().err
    logged = records(run)
    assert [r["step"] for r in logged if "loss" in r] == [1, 2, 3, 4, 5, 6]
    assert {"images_seen", "learning_rate", "gradient_norm", "images_per_second", "seconds"} <= logged[0].keys()
    validations = [r for r in logged if "validation_loss" in r]
    assert [r["step"] for r in validations] == [3, 6]
    assert result.validation_loss == validations[-1]["validation_loss"]
    assert "validation_loss_quarter_4" in validations[0]
    # what can be used has the averaged weights
    averages = load_file(run / "checkpoints" / "step-00000006" / "ema.safetensors")
    weights = load_file(run / "checkpoints" / "step-00000006" / "model.safetensors")
    assert any(not torch.equal(weights[n], averages[n]) for n in weights)
    unet = load_pipeline(run).unet
    assert all(torch.equal(p, averages[n]) for n, p in unet.named_parameters())
    suffixes = {p.suffix for p in run.rglob("*") if p.is_file()}
    assert suffixes == {"", ".json", ".jsonl", ".md", ".png", ".safetensors", ".yaml"}  # nothing pickled


RESUMPTIONS = {
    "plain": {},
    "accumulation and workers": {"gradient_accumulation_steps": 2, "num_workers": 2},
    # 11 images: three steps of four cross the end of an epoch
    "across epochs, between records": {"num_validation": 4085, "log_every": 2},
    "flips and crops, workers": {"random_crop": True, "num_workers": 2},
    "reversible, min-SNR, v, elastic depth": {
        "objective": "v_prediction", "min_snr_gamma": 5.0, "class_conditional": True, "ema": False,
        "solver_steps": "1,2,4",
        "model_options": {"block_out_channels": [8, 8], "norm_num_groups": 4, "gradient": "reversible"},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RESUMPTIONS)
def test_resumed_is_as_if_never_stopped(name, tiny, tmp_path):
    changes = {**RESUMPTIONS[name], "validate_every": 100 if "epochs" in name else 3}
    if "crops" in name:
        changes["data"] = str(tmp_path / "wide")
        (tmp_path / "wide").mkdir()
        for i in range(12):
            pixels = np.random.default_rng(i).integers(0, 256, (10, 20), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "wide" / f"{i}.png")
    train(tiny(**changes, output=str(tmp_path / "whole")))
    part = tiny(**changes, output=str(tmp_path / "part"))
    # as a kill between the checkpoint at step 3 and the end would leave it, with a record too many
    with pytest.MonkeyPatch.context() as patch:
        real = Trainer.take_step

        def dying(self, batches):
            if self.state.step == 5:
                raise RuntimeError("killed")
            return real(self, batches)

        patch.setattr(Trainer, "take_step", dying)
        with pytest.raises(RuntimeError, match="killed"):
            train(part)
    assert multiprocessing.active_children() == []  # data workers end with the run, though its frames are still held
    # how many load the images makes no difference, nor whether they are decoded once
    in_memory = "no" if "crops" in name else "yes"
    train(part.replaced(num_workers=0, keep_in_memory=in_memory), resume=True)
    assert_same_runs(tmp_path / "whole", tmp_path / "part")


COMMAND = [sys.executable, "-m", "continuous_unet", "train", "--config"]


def start(config, tmp_path, *options):
    config.save(tmp_path / "config.yaml")
    return subprocess.Popen(
        [*COMMAND, str(tmp_path / "config.yaml"), *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that the test can signal it with its workers, and not itself
    )


def wait_for(path, process):
    deadline = time.monotonic() + 400
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_process_goes_on_exactly(tiny, tmp_path):
    train(tiny(output=str(tmp_path / "whole"), steps=40, log_every=5, sample_every=40))
    config = tiny(output=str(tmp_path / "part"), steps=40, log_every=5, sample_every=40)
    process = start(config, tmp_path)
    wait_for(tmp_path / "part" / "checkpoints" / "step-00000006" / "manifest.json", process)
    process.kill()
    process.wait()
    resumed = subprocess.run(
        [sys.executable, "-m", "continuous_unet", "train", "--output", str(tmp_path / "part"), "--resume"],
        capture_output=True,
        text=True,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from step-" in resumed.stderr
    assert_same_runs(tmp_path / "whole", tmp_path / "part", 40)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves_with_its_code(number, tiny, tmp_path):
    rare = {"checkpoint_every": 100_000, "validate_every": 100_000, "sample_every": 100_000, "lr_schedule": "constant"}
    process = start(tiny(steps=100_000, num_workers=2, **rare), tmp_path)
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    os.killpg(process.pid, number)  # as a terminal's Ctrl-C and some cluster managers do: data workers get it too
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + number, errors
    assert "continue with --resume" in errors
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    train(tiny(steps=step + 2, **rare), resume=True)
    train(tiny(steps=step + 2, **rare, output=str(tmp_path / "whole")))
    assert_same_runs(tmp_path / "whole", tmp_path / "run", step + 2)


@pytest.mark.parametrize("part", ["validate", "picture", "nothing"])
@pytest.mark.parametrize("step", [3, 6])
def test_what_a_signal_cut_short_is_made_up_for(part, step, tiny, tmp_path, monkeypatch):
    """Validation and grid, of a step in the middle and of the last; with nothing cut short, nothing is done again."""
    settings = {"validate_every": 3, "sample_every": 3}
    train(tiny(**settings, output=str(tmp_path / "whole")))
    config, done, armed = tiny(**settings, output=str(tmp_path / "part")), [], [True]

    def told(name, real):
        def call(*args, **options):
            done.append(name)
            if armed and name == part and len(done) == (1 if name == "validate" else 2) + 2 * (step == 6):
                stop = options["stop"] if name == "validate" else args[1].stop
                stop.signal = signal.SIGTERM
            return real(*args, **options)

        return call

    for module, name in ((outputs, "validate"), (generate.GenerateTask, "picture")):
        monkeypatch.setattr(module, name, told(name, getattr(module, name)))
    result = train(config)
    assert (result.stopped_by, result.steps) == ((None, 6) if part == "nothing" else (signal.SIGTERM, step))
    assert (tmp_path / "part" / "report.md").exists() == (part == "nothing")
    done.clear()
    armed.clear()
    assert train(config, resume=True).stopped_by is None
    again = {"validate": 2, "picture": 1, "nothing": 0}[part] + (2 if step == 3 and part != "nothing" else 0)
    assert len(done) == again
    assert_same_runs(tmp_path / "whole", tmp_path / "part")
    for path in ("samples/step-00000003.png", "samples/step-00000006.png"):
        assert (tmp_path / "part" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()
    assert (tmp_path / "part" / "report.md").exists()


def test_the_model_is_that_of_the_checkpoint_again(tiny, tmp_path, monkeypatch):
    """The disk is full when the checkpoint stands and the model is next."""
    real = outputs.replace_folder

    def full(target, write):
        if target.exists():
            raise InputError("full")
        real(target, write)

    monkeypatch.setattr(outputs, "replace_folder", full)
    with pytest.raises(InputError, match="full"):
        train(tiny())
    monkeypatch.setattr(outputs, "replace_folder", real)
    train(tiny(), resume=True)
    averages = load_file(tmp_path / "run" / "checkpoints" / "step-00000006" / "ema.safetensors")
    assert all(torch.equal(p, averages[n]) for n, p in load_pipeline(tmp_path / "run").unet.named_parameters())


def test_a_finished_run_stays_as_it_is(tiny, tmp_path, capsys):
    done = train(tiny(steps=3))
    report = (tmp_path / "run" / "report.md").read_text()
    again = train(tiny(steps=3), resume=True)
    assert (again.steps, again.loss, again.validation_loss) == (3, done.loss, done.validation_loss)
    assert (tmp_path / "run" / "report.md").read_text() == report
    assert "raise --steps" in capsys.readouterr().err


def test_mixed_precision_keeps_float32_weights(tiny, tmp_path):
    train(tiny(mixed_precision="bf16", steps=3))
    weights = load_file(tmp_path / "run" / "checkpoints" / "step-00000003" / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}


def test_tensorboard_if_asked(tiny, tmp_path):
    pytest.importorskip("tensorboard")
    train(tiny(logger="tensorboard", steps=2))
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_loss_goes_down(tiny):
    pytest.importorskip("sklearn")
    options = {"block_out_channels": [16, 16], "norm_num_groups": 4}
    config = tiny(data="digits", steps=150, batch_size=16, learning_rate=4e-3, model_options=options)
    train(config.replaced(checkpoint_every=150, sample_every=150, validate_every=150))
    losses = [r["loss"] for r in records(config.output) if "loss" in r]
    assert sum(losses[-20:]) / 20 < 0.3 * losses[0]


def test_other_programs_get_cores_while_a_training_goes_on(tiny, monkeypatch, capsys):
    """The number of threads follows `CoreShare`, is restored at the end, and does not change what is learned much."""
    for name in COUNTS:
        monkeypatch.delenv(name, raising=False)
    answers, seen = iter([None, 1, None, 2]), []

    def look(share):
        seen.append(torch.get_num_threads())
        return next(answers, None)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(CoreShare, "look", look)
            result = train(tiny(steps=6, device="cpu"))
            assert torch.get_num_threads() == 2
            assert seen == [2, 2, 1, 1, 2, 2]
            said = capsys.readouterr().err
            assert said.count("goes on with 1 of 2 threads") == 1
            monkeypatch.setenv("OMP_NUM_THREADS", "2")
            alone = train(tiny(steps=6, device="cpu", output=result.run + "-alone"))
            assert len(seen) == 6
    finally:
        torch.set_num_threads(threads)
    assert alone.loss == pytest.approx(result.loss, rel=1e-3)
