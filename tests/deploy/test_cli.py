"""`cunet export` and `cunet run`, as typed; the second in a process, and an environment, without torch."""

import json
import os
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from continuous_unet import __version__
from continuous_unet.base.signals import StopRequest
from continuous_unet.cli.main import main
from continuous_unet.deploy.options import RunOptions
from continuous_unet.deploy.run_exported import run_exported
from continuous_unet.deploy.standalone import runtime

SOURCE = Path(__file__).parents[2] / "src"


def test_run_makes_the_images_of_the_module(exported, tmp_path, capsys):
    options = ["--num", "3", "--steps", "4", "--scheduler", "dpm++", "--seed", "2", "--batch-size", "2"]
    assert main(["run", str(exported), *options, "--output", str(tmp_path / "x"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 3
    images = runtime.to_pixels(runtime.generate(runtime.load(exported), 3, steps=4, sampler="dpm++", seed=2))
    for file, pixels in zip(result["files"], images, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), pixels[:, :, 0])


def test_run_starts_from_an_image_and_says_how(exported, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "start.png")
    options = ["--num", "2", "--steps", "4", "--seed", "2", "--image", str(tmp_path / "start.png"), "--strength", "0.5"]
    assert main(["run", str(exported), *options, "--output", str(tmp_path / "x")]) == 0
    start = (pixels / np.float32(255))[None, None]
    made = runtime.generate(runtime.load(exported), 2, steps=4, seed=2, image=start, strength=0.5)
    written = [Image.open(tmp_path / "x" / f"000{k}.png") for k in range(2)]
    for picture, expected in zip(written, runtime.to_pixels(made), strict=True):
        assert np.array_equal(np.asarray(picture), expected[:, :, 0])
    about = json.loads(written[1].text["continuous-unet"])
    expected = {"model": "exported", "format": "onnx", "scheduler": "ddim", "steps": 4, "seed": 2, "number": 1}
    assert about == {**expected, "version": __version__, "image": "start.png", "strength": 0.5}


def test_run_takes_noise_out_of_an_image(exported, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noisy.png")
    options = ["--input", str(tmp_path / "noisy.png"), "--sigma", "30", "--output", str(tmp_path / "clean.png")]
    assert main(["run", str(exported), *options]) == 0
    noisy = (pixels / np.float32(255))[None, None]
    expected = runtime.to_pixels(runtime.denoise(runtime.load(exported), noisy, 30))[0, :, :, 0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "clean.png")), expected)


def test_options_may_come_from_a_file(exported, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("num: 2\nsteps: 3\n")
    assert main(["run", str(exported), "--config", str(tmp_path / "run.yaml"), "--print-config"]) == 0
    options = yaml.safe_load(capsys.readouterr().out)
    assert (options["num"], options["steps"], options["scheduler"]) == (2, 3, None)
    assert main(["export", "nope", "--output", "x", "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["format"] == "onnx"


WRONG = {
    "no model": (["run"], "EXPORT is missing: folder that"),
    "missing": (["run", "nope"], "nope holds no exported model"),
    "zero": (["run", "nope", "--num", "0"], "--num 0 must be at least 1"),
    "steps": (["run", "{export}", "--steps", "5000"], "expected 1 to 1000"),
    "class": (["run", "{export}", "--class", "1"], "trained without classes"),
    "name": (["run", "{export}", "--class", "cat"], "trained without classes"),
    "prompt": (["run", "{export}", "--prompt", "a cat"], "trained without text; leave it out"),
    "guidance": (["run", "{export}", "--guidance", "3"], "cannot be guided"),
    "interval": (["run", "{export}", "--guidance-interval", "0.2"], "expected LOW:HIGH"),
    "strength": (["run", "{export}", "--strength", "0.5"], "give --image, or leave it out"),
    "little": (["run", "{export}", "--image", "{image}", "--strength", "0.01"], "at least 100 steps"),
    "sigma": (["run", "{export}", "--sigma", "9"], "sigma describes the noise of an input image"),
    "no sigma": (["run", "{export}", "--input", "{image}"], "give sigma: the noise"),
    "no image": (["run", "{export}", "--input", "i.png", "--sigma", "9"], "cannot be read as an image"),
    "many": (["run", "{export}", "--num", "9" * 15], "expected 1 to 1000000"),
    "threads": (["run", "{export}", "--threads", "9" * 15], "expected 1 to 1024"),
    "no name": (["run", "{export}", "--output", ""], "--output is empty: name a"),
    "pipe": (["run", "{export}", "--input", "/dev/null", "--sigma", "9"], "is not a regular file"),
    "under a file": (["run", "{export}", "--output", "{image}/x"], "cannot be written (Not a directory)"),
    "long": (["run", "{export}", "--output", "x" * 300 + ".png"], "cannot be written (File name too long)"),
    "jpeg": (["run", "{export}", "--output", "x.jpg"], "only .png (.gif for clips) files are written"),
    "export nothing": (["export", "--output", "x"], "RUN_OR_MODEL is missing: run folder of"),
    "export missing": (["export", "nope", "--output", "x"], "nope does not exist"),
    "export no output": (["export", "nope"], "--output is missing"),
    "export format": (["export", "nope", "--output", "x", "--format", "tflite"], "must be one of onnx, openvino"),
    "multiple": (["export", "{model}", "--output", "x", "--static-shape", "1x9x8"], "needs multiples of 2"),
    "pixels": (["export", "nope", "--output", "x", "--static-shape", "1x65536x65536"], "16,777,216 pixels"),
    "solver": (["export", "{model}", "--output", "x", "--solver-steps", "9999"], "more than the 1000"),
    "web": (
        ["export", "nope", "--output", "x", "--web", "--format", "torch"],
        "--web is not for --format torch, only for onnx",
    ),
    "export here": (["export", "{model}", "--output", "."], "name a new folder"),
    "export long": (["export", "{model}", "--output", "x" * 300], "cannot be written (File name too long)"),
    "prune here": (["prune", "{model}", "--data", "shapes", "--output", "."], "name a new folder"),
    "export an export": (["export", "{export}", "--output", "x"], "holds no model"),
}


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "grey.png"
    Image.new("L", (8, 8), 128).save(path)
    return path


@pytest.mark.parametrize("kind", WRONG)
def test_bad_input_is_one_line_and_exit_code_2(kind, exported, model, image, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = WRONG[kind]
    assert main([word.format(export=exported, model=model, image=image) for word in arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert message in output.err
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_there_are_not_written_over(exported, tmp_path, capsys):
    target = tmp_path / "images.png"
    target.write_bytes(b"mine")
    options = ["run", str(exported), "--num", "1", "--steps", "1", "--output", str(target)]
    assert main(options) == 2
    assert "allow it with --overwrite" in capsys.readouterr().err
    assert target.read_bytes() == b"mine"
    assert main([*options, "--overwrite"]) == 0
    assert Image.open(target).size == (8, 8)


def test_run_imports_neither_torch_nor_diffusers(exported, tmp_path, without_torch):
    code = (
        "from continuous_unet.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit(code or (3 if {'torch', 'diffusers'} & set(sys.modules) else 0))"
    )
    options = ["run", str(exported), "--num", "2", "--steps", "2", "--output", str(tmp_path / "x.png")]
    command = [*without_torch["command"], without_torch["prelude"] + code, *options]
    run = subprocess.run(command, capture_output=True, text=True, env=without_torch["environment"])
    assert run.returncode == 0, run.stderr
    assert Image.open(tmp_path / "x.png").size == (102, 52)


@pytest.mark.slow
def test_run_in_a_real_environment_without_torch(exported, tmp_path):
    """A new environment with numpy, onnxruntime, Pillow and PyYAML alone; skipped if they are unavailable."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "numpy", "onnxruntime", "pillow", "PyYAML"]
    installed = subprocess.run(install, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"the packages are unavailable: {installed.stderr[-200:]}")
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0
    options = ["--num", "2", "--steps", "3", "--seed", "7"]
    alone = [python, str(exported / "runtime.py"), *options, "--output", str(tmp_path / "alone.png")]
    verb = [python, "-m", "continuous_unet", "run", str(exported), *options]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    for command in (alone, [*verb, "--output", str(tmp_path / "verb.png")]):
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr
    assert main(["run", str(exported), *options, "--output", str(tmp_path / "here.png")]) == 0
    pictures = [np.asarray(Image.open(tmp_path / name)) for name in ("alone.png", "verb.png", "here.png")]
    assert all(np.abs(p.astype(int) - pictures[2]).max() <= 1 for p in pictures)


def test_former_spellings_keep_working(exported, tmp_path, capsys):
    options = ["--model", str(exported), "--num", "1", "--steps", "1", "--sampler", "dpm++"]
    assert main(["run", *options, "--output", str(tmp_path / "x.png")]) == 0
    notes = capsys.readouterr().err
    assert "--sampler is now called --scheduler" in notes
    assert "--model" in notes


def test_a_stopped_run_writes_nothing(exported, tmp_path):
    stop = StopRequest()
    stop.signal = 15
    options = RunOptions(model=str(exported), output=str(tmp_path / "x.png"))
    result = run_exported(options, stop=stop)
    assert (result.exit_code, result.to_text(), result.notes()) == (143, "", ["stopped; nothing was written"])
    assert list(tmp_path.iterdir()) == []
