"""Training as a whole: what it writes, exact resumption, signals, refusals, two processes."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import continuous_unet.training.trainer as loop
from continuous_unet.base.errors import InputError
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.tasks.registry import generation
from continuous_unet.training import TrainConfig, checkpoints, train
from continuous_unet.training.trainer import TrainingDiverged


def records(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def final_state(run, step=6):
    folder = Path(run) / "checkpoints" / f"step-{step:08d}"
    tensors = {f"{f.stem}/{k}": v for f in folder.glob("*.safetensors") for k, v in load_file(f).items()}
    state = json.loads((folder / "state.json").read_text())
    assert state.pop("seconds") > 0
    timeless = [{k: v for k, v in r.items() if k not in ("images_per_second", "seconds")} for r in records(run)]
    return tensors, state, timeless


def assert_same_runs(one, other, step=6):
    (tensors_a, state_a, records_a), (tensors_b, state_b, records_b) = final_state(one, step), final_state(other, step)
    assert tensors_a.keys() == tensors_b.keys()
    assert [k for k in tensors_a if not torch.equal(tensors_a[k], tensors_b[k])] == []
    assert state_a == state_b
    assert records_a == records_b


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
    assert suffixes == {".json", ".jsonl", ".md", ".png", ".safetensors", ".yaml"}  # nothing pickled


RESUMPTIONS = {
    "plain": {},
    "accumulation and workers": {"gradient_accumulation_steps": 2, "num_workers": 2},
    # 11 images: three steps of four cross the end of an epoch
    "across epochs, between records": {"num_validation": 4085, "log_every": 2},
    "flips and crops, workers": {"random_crop": True, "num_workers": 2},
    "reversible, min-SNR, v": {
        "objective": "v_prediction", "min_snr_gamma": 5.0, "class_conditional": True, "ema": False,
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
        real = loop._Trainer._take_step

        def dying(self, batches):
            if self.step == 5:
                raise RuntimeError("killed")
            return real(self, batches)

        patch.setattr(loop._Trainer, "_take_step", dying)
        with pytest.raises(RuntimeError, match="killed"):
            train(part)
    assert multiprocessing.active_children() == []  # data workers end with the run, though its frames are still held
    part.num_workers = 0  # how many load the images makes no difference
    train(part, resume=True)
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
    assert "go on with --resume" in errors
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    train(tiny(steps=step + 2, **rare), resume=True)
    train(tiny(steps=step + 2, **rare, output=str(tmp_path / "whole")))
    assert_same_runs(tmp_path / "whole", tmp_path / "run", step + 2)


@pytest.mark.parametrize("part", ["validation_loss", "sample_grid", "nothing"])
@pytest.mark.parametrize("step", [3, 6])
def test_what_a_signal_cut_short_is_made_up_for(part, step, tiny, tmp_path, monkeypatch):
    """Validation and grid, of a step in the middle and of the last; with nothing cut short, nothing is done again."""
    settings = {"validate_every": 3, "sample_every": 3}
    train(tiny(**settings, output=str(tmp_path / "whole")))
    config, done, armed = tiny(**settings, output=str(tmp_path / "part")), [], [True]

    def told(name, real):
        def call(*args, **options):
            done.append(name)
            if armed and name == part and len(done) == (1 if name == "validation_loss" else 2) + 2 * (step == 6):
                options["stop"].signal = signal.SIGTERM
            return real(*args, **options)

        return call

    for module, name in ((loop, "validation_loss"), (generation, "sample_grid")):
        monkeypatch.setattr(module, name, told(name, getattr(module, name)))
    result = train(config)
    assert (result.stopped_by, result.steps) == ((None, 6) if part == "nothing" else (signal.SIGTERM, step))
    assert (tmp_path / "part" / "report.md").exists() == (part == "nothing")
    done.clear()
    armed.clear()
    assert train(config, resume=True).stopped_by is None
    again = {"validation_loss": 2, "sample_grid": 1, "nothing": 0}[part] + (2 if step == 3 and part != "nothing" else 0)
    assert len(done) == again
    assert_same_runs(tmp_path / "whole", tmp_path / "part")
    for path in ("samples/step-00000003.png", "samples/step-00000006.png"):
        assert (tmp_path / "part" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()
    assert (tmp_path / "part" / "report.md").exists()


def test_the_model_is_that_of_the_checkpoint_again(tiny, tmp_path, monkeypatch):
    """The disk is full when the checkpoint stands and the model is next."""
    real = loop.replace_folder

    def full(target, write):
        if target.exists():
            raise InputError("full")
        real(target, write)

    monkeypatch.setattr(loop, "replace_folder", full)
    with pytest.raises(InputError, match="full"):
        train(tiny())
    monkeypatch.setattr(loop, "replace_folder", real)
    train(tiny(), resume=True)
    averages = load_file(tmp_path / "run" / "checkpoints" / "step-00000006" / "ema.safetensors")
    assert all(torch.equal(p, averages[n]) for n, p in load_pipeline(tmp_path / "run").unet.named_parameters())


def test_checkpoints_that_are_not_this_runs(tiny, tmp_path):
    """Their hashes are right: someone made them so. A tensor of one value would be spread over a parameter, unseen."""
    train(tiny(steps=3))
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    tensors, state = checkpoints.load_checkpoint(path)
    name = next(n for n, value in tensors["model"].items() if value.ndim == 1)
    short = {**tensors["model"], name: tensors["model"][name][:1]}
    for spoilt, numbers, message in (
        ({**tensors, "model": short}, state, "model.safetensors does not fit"),
        ({k: v for k, v in tensors.items() if k != "ema"}, state, "ema.safetensors does not fit"),
        ({**tensors, "optimizer": {"x/exp_avg": torch.ones(1)}}, state, "optimizer.safetensors does not fit"),
        (tensors, {}, "not of a run of this version"),
    ):
        checkpoints.save_checkpoint(path.parent, 3, spoilt, numbers)
        with pytest.raises(InputError, match=message):
            train(tiny(steps=4), resume=True)


def test_a_stream_of_shards(tiny, tmp_path, capsys):
    pytest.importorskip("webdataset")
    (tmp_path / "shards").mkdir()
    for s in range(2):
        with tarfile.open(tmp_path / "shards" / f"{s}.tar", "w") as tar:
            for i in range(6):
                Image.new("L", (8, 8), 20 * i + s).save(tmp_path / "a.png")
                tar.add(tmp_path / "a.png", f"{i}.png")
    config = tiny(data=str(tmp_path / "shards"), num_validation=0, steps=4, num_workers=2)
    assert train(config).images_seen == 16
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["resume"].startswith("approximate")
    config.steps = 6
    assert train(config, resume=True).images_seen == 24
    assert "its resumption is approximate" in capsys.readouterr().err
    with pytest.raises(InputError, match="no images to hold out and no classes"):
        train(tiny(data=str(tmp_path / "shards"), output=str(tmp_path / "other")))
    with pytest.raises(InputError, match="2 shards, and 3 would read"):
        train(tiny(data=str(tmp_path / "shards"), output=str(tmp_path / "other"), num_validation=0, num_workers=3))


def test_strategies_that_split_the_weights_are_refused(tiny, tmp_path, monkeypatch):
    for name in ("FSDP", "DEEPSPEED"):
        with monkeypatch.context() as patch:
            patch.setenv(f"ACCELERATE_USE_{name}", "true")
            with pytest.raises(InputError, match=f"configured for {name}, which splits the weights"):
                train(tiny())
    assert not (tmp_path / "run").exists()


def test_damaged_files_of_a_run_are_named(tiny, tmp_path):
    train(tiny(steps=3))
    run = tmp_path / "run"
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\x00\n[1]\n{"step": "x"}\n{"step": 3, "lo')
    (run / "samples" / ".step-00000003.png.1.tmp").write_text("half")
    assert train(tiny(steps=4), resume=True).steps == 4
    assert [r["step"] for r in records(run) if "loss" in r] == [1, 2, 3, 4]
    assert not list(run.rglob(".*.tmp"))
    (run / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run.json is damaged .* remove it"):
        train(tiny(steps=5), resume=True)


def test_what_is_refused_leaves_no_trace(tiny, tmp_path):
    for changes, message in (
        ({"data": str(tmp_path / "nope")}, "does not exist"),
        ({"model_options": {"block_out_channels": [7]}}, "norm_num_groups=8 does not divide"),
        ({"model_options": {"nonsense": 1}}, "nonsense"),
        ({"num_validation": 5000}, "5000 validation images"),
        ({"image_size": 9}, "multiples of 2"),
        ({"image_size": 2, "model_options": {"block_out_channels": [8, 8]}}, "does not work on images of 2x2 pixels"),
        ({"mixed_precision": "fp16"}, "needs a GPU"),
        ({"device": "mps" if torch.cuda.is_available() else "cuda"}, "not to be had here"),
    ):
        with pytest.raises(InputError, match=message):
            train(tiny(**changes))
        assert not (tmp_path / "run").exists()


def test_a_run_is_never_overwritten(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="is not an empty folder"):
        train(tiny())
    (tmp_path / "run" / "thesis.txt").unlink()
    train(tiny(steps=1))
    with pytest.raises(InputError, match="--resume"):
        train(tiny(steps=1))


def test_resume_refuses_other_settings_and_says_which(tiny, tmp_path):
    with pytest.raises(InputError, match="no run to resume"):
        train(tiny(), resume=True)
    train(tiny(steps=3))
    with pytest.raises(InputError, match=r"learning_rate 0.001 -> 0.5"):
        train(tiny(learning_rate=0.5), resume=True)
    assert train(tiny(steps=4), resume=True).steps == 4  # longer is allowed


def test_settings_from_python_are_the_same_after_yaml(tiny):
    options = {"block_out_channels": (8, 8), "norm_num_groups": 4}  # YAML has lists only
    train(tiny(steps=3, model_options=options))
    assert train(tiny(steps=4, model_options=options), resume=True).steps == 4


def test_a_finished_run_stays_as_it_is(tiny, tmp_path, capsys):
    done = train(tiny(steps=3))
    report = (tmp_path / "run" / "report.md").read_text()
    again = train(tiny(steps=3), resume=True)
    assert (again.steps, again.loss, again.validation_loss) == (3, done.loss, done.validation_loss)
    assert (tmp_path / "run" / "report.md").read_text() == report
    assert "raise --steps" in capsys.readouterr().err


@pytest.fixture
def images(tmp_path):
    """A folder of twelve grey images, each of another shade."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(folder / f"{i}.png")
    return folder


def test_resume_goes_on_with_the_images_of_the_run(tiny, tmp_path, images, caplog):
    """One that is gone keeps its place, and another is used there; one that is new is not used; two are too many."""
    config = tiny(data=str(images), steps=3)
    train(config)
    (images / "3.png").unlink()
    (images / "new.png").write_bytes((images / "5.png").read_bytes())
    config.steps = 9
    result = train(config, resume=True)
    assert result.steps == 9
    assert "3.png can no longer be read" in caplog.text
    names = json.loads((tmp_path / "run" / "images.json").read_text())
    assert (len(names), "new.png" in names) == (12, False)
    (images / "4.png").unlink()
    config.steps = 10
    with pytest.raises(InputError, match=r"2 of 12 images in .* cannot be used \(3.png: No such file"):
        train(config, resume=True)
    config.max_bad_images = 0.2
    assert train(config, resume=True).steps == 10


def test_resume_refuses_other_data(tiny, tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((12, 8, 8), np.uint8))
    config = tiny(data=str(tmp_path / "a.npz"), steps=3)
    train(config)
    np.savez(tmp_path / "a.npz", images=np.zeros((11, 8, 8), np.uint8))
    config.steps = 4
    with pytest.raises(InputError, match=r"num_images 8 -> 7"):
        train(config, resume=True)
    assert TrainConfig.load(tmp_path / "run" / "config.yaml").steps == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_that_vanish_while_training(num_workers, tiny, tmp_path, images, monkeypatch):
    """They are replaced the same way each time, recorded by name, and stop the run above the limit, in one sentence."""
    config = tiny(data=str(images), steps=12, num_validation=0, max_bad_images=0.25, num_workers=num_workers)
    take_step = loop._Trainer._take_step

    def losing(self, batches):
        if self.step == 3:
            for name in ("1.png", "2.png", "3.png"):
                (images / name).unlink(missing_ok=True)
        return take_step(self, batches)

    monkeypatch.setattr(loop._Trainer, "_take_step", losing)
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

    config.steps, config.max_bad_images = 20, 0.3
    (images / "4.png").rename(images / "away.png")
    with pytest.raises(InputError, match=r"^4 of 12 images in .* cannot be used"):
        train(config, resume=True)
    (images / "away.png").rename(images / "4.png")

    def losing_more(self, batches):
        (images / "4.png").unlink(missing_ok=True)
        return take_step(self, batches)

    monkeypatch.setattr(loop._Trainer, "_take_step", losing_more)
    with pytest.raises(InputError, match=r"^4 of 12 images can no longer be read \(4.png\)"):
        train(config, resume=True)


def test_a_disk_that_is_gone_is_one_sentence(tiny, images, monkeypatch):
    take_step = loop._Trainer._take_step

    def losing(self, batches):
        for path in images.glob("*.png"):
            path.unlink()
        return take_step(self, batches)

    monkeypatch.setattr(loop._Trainer, "_take_step", losing)
    with pytest.raises(InputError, match=r"^ten images in a row of .* can no longer be read; is the disk there\?$"):
        train(tiny(data=str(images), num_workers=1, num_validation=0, steps=50, max_bad_images=1.0))


def test_a_tracker_that_is_not_there_is_asked_for(tiny, tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"continuous-unet\[wandb\]"):
        train(tiny(logger="wandb"))
    assert not (tmp_path / "run").exists()


def test_a_gradient_that_is_not_finite_changes_nothing_and_ends_the_run(tiny, tmp_path, monkeypatch, capsys):
    real = generation.diffusion_loss

    def poisoned(model, *args):
        loss = real(model, *args)
        return loss * torch.tensor([1, float("nan"), 1, 1]) if model.training else loss

    monkeypatch.setattr(generation, "diffusion_loss", poisoned)
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
    untouched = [k for k, w in weights.items() if k.startswith("conv_out")]
    assert untouched
    assert all(float(weights[k].abs().max()) == 0 for k in untouched)  # conv_out starts at zero, and no update came
    assert "update left out" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_never_saved(tiny, tmp_path, monkeypatch):
    """As an update too large for float32 leaves them: the check of the gradient before it cannot see it coming."""
    real = loop._Trainer._take_step

    def overflowing(self, batches):
        taken = real(self, batches)
        if self.step == 3:
            next(self.model.parameters()).data[0] = float("inf")
        return taken

    monkeypatch.setattr(loop._Trainer, "_take_step", overflowing)
    with pytest.raises(TrainingDiverged, match="weights are not finite after step 6"):
        train(tiny(num_validation=0))
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]


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
    config.checkpoint_every = config.sample_every = config.validate_every = 150
    train(config)
    losses = [r["loss"] for r in records(config.output) if "loss" in r]
    assert sum(losses[-20:]) / 20 < 0.3 * losses[0]


def run_two_processes(*command):
    # torchrun: on CPUs, `accelerate launch` starts several processes through MPI only
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = subprocess.run([*launch, *map(str, command)], capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_compute_what_one_does(accumulation, tiny, tmp_path):
    """The same global batch: data, noise and timesteps belong to positions in the data, not to processes."""
    model = {"block_out_channels": [8, 8], "norm_num_groups": 4}
    options = {"steps": 4, "model_options": model, "num_samples": 1, "gradient_accumulation_steps": accumulation}
    train(tiny(**options, output=str(tmp_path / "one"), batch_size=4))
    config = tiny(**options, output=str(tmp_path / "two"), batch_size=2)
    config.save(tmp_path / "config.yaml")
    run_two_processes("-m", "continuous_unet", "train", "--config", tmp_path / "config.yaml")
    for name in ("loss", "validation_loss"):
        values = [[r[name] for r in records(tmp_path / output) if name in r] for output in ("one", "two")]
        assert values[1] == pytest.approx(values[0], rel=1e-4)
    one, two = (load_file(tmp_path / n / "checkpoints" / "step-00000004" / "model.safetensors") for n in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3)


def test_two_processes_agree(tiny, tmp_path, monkeypatch):
    """Process 1 alone meets a bad loss at step 2 and a signal at step 3; what it does, process 0 does too."""
    options = {"batch_size": 2, "log_every": 2, "checkpoint_every": 100, "validate_every": 100, "sample_every": 100}
    tiny(**options).save(tmp_path / "config.yaml")
    run_two_processes(Path(__file__).with_name("two_processes.py"), tmp_path / "config.yaml", tmp_path)
    zero, one = (json.loads((tmp_path / f"process-{rank}.json").read_text()) for rank in (0, 1))
    assert zero["weights"] == one["weights"]
    assert (zero["steps"], zero["stopped_by"]) == (one["steps"], one["stopped_by"]) == (3, signal.SIGTERM)
    assert zero["loss"] == one["loss"]
    (left_out,) = (r for r in records(tmp_path / "run") if "non_finite" in r)
    assert left_out["step"] == 2
    assert len(left_out["images"]) == 1  # the one of process 1, in the records of process 0

    # one process takes over where the two were in the data
    real, seen = loop.training_noise, []
    monkeypatch.setattr(
        loop, "training_noise", lambda seed, positions, *rest: real(seed, seen.append(positions) or positions, *rest)
    )
    result = train(tiny(**options, steps=4), resume=True)
    assert seen == [range(12, 14)]
    assert result.images_seen == 14
