"""The command line, mostly run in this process; what matters about processes in real ones."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image

from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.cli.main import main
from continuous_unet.diffusion.samplers import SCHEDULERS
from continuous_unet.training.config import TrainConfig

CUNET = [sys.executable, "-m", "continuous_unet"]


@pytest.fixture
def model(tmp_path):
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 4}
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), **blocks)
    DiffusionSamplingPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


WRONG = {
    "not a number": (["train", "--steps", "many"], "--steps 'many' must be an integer"),
    "data missing": (["train", "--data", "nope", "--output", "run"], "nope does not exist"),
    "choice": (["train", "--fit", "squeeze"], "--fit 'squeeze' must be one of crop, pad, stretch, patch"),
    "preset": (["train", "--data", "digits", "--output", "x", "--preset", "huge"], "must be one of paper, tiny"),
    "model option": (["train", "--model-option", "depth"], "not of the form KEY=VALUE"),
    "resume nothing": (["train", "--output", "nope", "--resume"], "holds no run to resume"),
    "resume nowhere": (["train", "--resume"], "--resume needs --output"),
    "config missing": (["train", "--config", "nope.yaml"], "nope.yaml does not exist"),
    "sample missing": (["sample", "nope"], "nope does not exist"),
    "sample zero": (["sample", "nope", "--num", "0"], "--num 0 must be at least 1"),
    "data missing, check": (["data", "check", "nope"], "nope does not exist"),
    "data what": (["data", "mend", "nope"], "unknown verb 'mend', expected one of check"),
    "scheduler": (["sample", "nope", "--scheduler", "magic"], "--scheduler 'magic' must be one of ddpm, ddim"),
    "profile missing": (
        ["profile", "nope"],
        "nor a preset (paper, tiny, small, base, ddpm, ddpm_small, restorer, clips, planner)",
    ),
    "profile size": (["profile", "tiny", "--sample-size", "9"], "multiples of 4"),
    "device": (["profile", "tiny", "--device", "abacus"], "cpu always works"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_bad_input_is_one_line_and_exit_code_2(kind, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = WRONG[kind]
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = [line for line in output.err.splitlines() if "images from" not in line]
    assert len(lines) == 1, output.err
    assert lines[0].startswith("cunet")
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    for name in [name for name in sys.modules if name.startswith("continuous_unet.training.")]:
        if name != "continuous_unet.training.config":
            monkeypatch.delitem(sys.modules, name)
    assert main(["train", "--data", "digits", "--steps", "1", "--output", str(tmp_path / "x")]) == 2
    assert "continuous-unet[train]" in capsys.readouterr().err


def resolved(capsys, *arguments):
    assert main(["train", *arguments, "--print-config"]) == 0
    return TrainConfig.from_dict(yaml.safe_load(capsys.readouterr().out)).flat()


def test_flags_take_precedence_over_the_file_and_the_file_over_defaults(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("steps: 7\nbatch_size: 3\nlearning_rate: 1e-3\nmodel_options: {dropout: 0.1}")
    options = ["--config", str(tmp_path / "c.yaml"), "--steps", "9", "--model-option", "num_solver_steps=4"]
    config = resolved(capsys, *options)
    assert (config["steps"], config["batch_size"], config["learning_rate"]) == (9, 3, 0.001)
    assert config["seed"] == 0
    assert config["model_options"] == {"dropout": 0.1, "num_solver_steps": 4}


def test_a_run_is_resumed_with_its_options_below_those_given(capsys, tmp_path):
    begun = TrainConfig.from_dict({"data": "digits", "output": "old place", "batch_size": 3, "steps": 5})
    begun.save(tmp_path / "config.yaml")
    config = resolved(capsys, "--resume", "--output", str(tmp_path), "--steps", "9")
    assert config == begun.replaced(output=str(tmp_path), steps=9).flat()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "did you mean steps?"),
        ("steps: many", "--steps 'many' must be an integer"),
        ("steps: true", "--steps True must be an integer"),
        ("fit: squeeze", "--fit 'squeeze' must be one of crop, pad, stretch"),
        ("a: [", "cannot be read"),
    ],
)
def test_bad_configuration_files(text, message, capsys, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "c.yaml")]) == 2
    assert message in capsys.readouterr().err


def test_sample_writes_pictures_and_json(model, capsys, tmp_path):
    out = tmp_path / "many"
    options = ["--num", "3", "--steps", "2", "--seed", "1"]
    assert main(["sample", model, *options, "--output", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["files"] == [str(out / f"000{i}.png") for i in range(3)]
    assert {"seconds", "images_per_second"} <= result.keys()
    assert Image.open(out / "0002.png").size == (8, 8)
    assert main(["sample", model, *options, "--output", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["sample", model, *options, "--output", str(out), "--overwrite"]) == 0
    # image k depends on seed and k alone, not on how many are made or at once
    more = ["--num", "4", "--steps", "2", "--seed", "1", "--batch-size", "1"]
    assert main(["sample", model, *more, "--output", str(tmp_path / "more")]) == 0
    for i in range(3):
        one, other = (np.asarray(Image.open(folder / f"000{i}.png"), int) for folder in (out, tmp_path / "more"))
        assert abs(one - other).max() <= 1  # batches of another size round differently


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_from_the_command_line(scheduler, model, tmp_path):
    out = tmp_path / "grid.png"
    assert main(["sample", model, "--num", "2", "--steps", "3", "--scheduler", scheduler, "--output", str(out)]) == 0
    assert Image.open(out).size == (2 * 48 + 6, 48 + 4)


def test_solver_steps_are_for_continuous_models(model, capsys):
    assert main(["sample", model, "--solver-steps", "2"]) == 2
    assert "UNet2DModel" in capsys.readouterr().err


def test_profile_as_json_and_text(model, capsys):
    assert main(["profile", "tiny", "--repeats", "2", "--solver-steps", "3", "--json"]) == 0
    profile = json.loads(capsys.readouterr().out)
    assert set(profile["evaluations_per_block"].values()) == {3}
    assert profile["flops"] == 2 * profile["macs"]
    assert main(["profile", model, "--repeats", "2"]) == 0
    assert "UNet2DModel" in capsys.readouterr().out


def test_train_sample_profile_from_the_shell(tmp_path):
    """The three verbs as typed, in their own processes."""

    def cunet(*arguments):
        run = subprocess.run([*CUNET, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert "Warning" not in run.stderr
        return run

    common = ["--preset", "tiny", "--image-size", "8", "--batch-size", "4", "--seed", "1", "--checkpoint-every", "2"]
    train = ["train", "--data", "shapes", "--output", "run", "--steps", "3", *common, "--num-samples", "1", "--json"]
    trained = cunet(*train)
    assert json.loads(trained.stdout)["steps"] == 3
    assert "training: 100%" in trained.stderr
    assert "images/s" in trained.stderr
    resumed = cunet("train", "--output", "run", "--resume", "--steps", "4", "--num-samples", "1", "--json")
    assert json.loads(resumed.stdout)["steps"] == 4
    sampled = cunet("sample", "run", "--num", "2", "--steps", "2", "--solver-steps", "1", "--output", "a.png")
    assert Path(sampled.stdout.split()[-1]) == Path("a.png")
    assert (tmp_path / "a.png").is_file()
    assert json.loads(cunet("profile", "run", "--repeats", "1", "--json").stdout)["num_parameters"] > 1000


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    shell = f"{sys.executable} -m continuous_unet train --print-config | head -1"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True)
    assert run.stdout == "output: ''\n"
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("form", ["json", "text"])
def test_data_check(form, capsys, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    options = ["--json"] if form == "json" else []
    assert main(["data", "check", str(tmp_path), *options]) == 0
    capsys.readouterr()
    (tmp_path / "bad.png").write_text("no image")
    assert main(["data", "check", str(tmp_path), *options]) == 1
    out = capsys.readouterr().out
    if form == "json":
        found = json.loads(out)
        assert (found["num_images"], [u["name"] for u in found["unusable"]]) == (1, ["bad.png"])
    else:
        assert out.splitlines()[0].startswith("bad.png: no image of a known format")
    assert main(["data", "check", str(tmp_path / "nope")]) == 2


@pytest.mark.parametrize("form", ["folder", "grid.png"])
def test_a_signal_while_sampling_leaves_whole_files(form, model, tmp_path, monkeypatch, capsys):
    from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline as Pipeline

    real, calls = Pipeline.__call__, []

    def call(self, *args, **options):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args, **options)

    monkeypatch.setattr(Pipeline, "__call__", call)
    arguments = ["sample", model, "--num", "6", "--batch-size", "2", "--steps", "2", "--output", str(tmp_path / form)]
    assert main(arguments) == 143
    files = sorted(p.name for p in (tmp_path / form).iterdir()) if form == "folder" else []
    assert files == (["0000.png", "0001.png"] if form == "folder" else [])
    assert len(calls) == 2
    assert "stopped" in capsys.readouterr().err


def test_processes_of_a_launcher_share_the_images(model, tmp_path):
    """On CPUs, in spite of the name of the option."""
    options = ["--num", "5", "--steps", "2", "--batch-size", "2", "--device", "cpu", "--json", "--output"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    together = ["-m", "continuous_unet", "sample", model, *options, str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *together], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["images"] == 5  # said once
    alone = subprocess.run([*CUNET, *together[2:-1], str(tmp_path / "one")], capture_output=True, env=environment)
    assert alone.returncode == 0
    for k in range(5):
        assert (tmp_path / "two" / f"000{k}.png").read_bytes() == (tmp_path / "one" / f"000{k}.png").read_bytes()
