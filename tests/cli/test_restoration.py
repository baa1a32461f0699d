"""The verbs that make better images of images, as they are typed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from continuous_unet import (
    ContinuousUNet2DModel,
    DenoisingPipeline,
    DiffusionSamplingPipeline,
    SuperResolutionPipeline,
)
from continuous_unet.cli.main import main
from continuous_unet.evaluation.quality.restoration import NO_LPIPS


def unet(in_channels=1, out_channels=1, **options):
    torch.manual_seed(0)
    model = ContinuousUNet2DModel(
        sample_size=8, in_channels=in_channels, out_channels=out_channels, block_out_channels=(8,), norm_num_groups=4,
        norm_type="pixel", add_attention=False, **options,
    )  # fmt: skip
    torch.nn.init.normal_(model.conv_out.weight, std=0.01)
    return model


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Models of every task, and photographs."""
    monkeypatch.chdir(tmp_path)
    DiffusionSamplingPipeline(unet(), DDPMScheduler()).save_pretrained("diffusion")
    DiffusionSamplingPipeline(unet(num_class_embeds=3), DDPMScheduler()).save_pretrained("classes")
    DiffusionSamplingPipeline(unet(4, 4), DDPMScheduler()).save_pretrained("rgba")
    DenoisingPipeline(unet(), sigma_max=55.0).save_pretrained("denoiser")
    schedule = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False)
    SuperResolutionPipeline(unet(2, 1), schedule, scale=3, can_sample=False).save_pretrained("upscaler")
    SuperResolutionPipeline(unet(1, 1), schedule, scale=3).save_pretrained("odd")
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (13, 11, 3)), ("b.png", (12, 16)), ("c.jpg", (8, 8, 3))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / "photos" / name)
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    return tmp_path


def printed(capsys):
    return json.loads(capsys.readouterr().out)


def test_denoising_a_folder(place, capsys):
    assert main(["denoise", "photos", "--model", "denoiser", "-o", "out", "--json"]) == 0
    result = printed(capsys)
    assert [(f["output"], f["width"], f["height"]) for f in result["files"]] == [
        ("out/a.png", 11, 13), ("out/b.png", 16, 12), ("out/c.jpg", 8, 8),
    ]  # fmt: skip
    assert "channel by channel" in result["files"][0]["notes"][0]
    assert result["files"][1]["notes"] == []
    assert result["megapixels_per_second"] > 0
    # nothing is written over
    before = (place / "out" / "a.png").read_bytes()
    assert main(["denoise", "photos", "--model", "denoiser", "-o", "out"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["denoise", "photos", "--model", "denoiser", "-o", "out", "--overwrite"]) == 0
    assert (place / "out" / "a.png").read_bytes() == before


def test_without_a_model_the_packaged_one_for_the_kind_of_image_is_used(place, capsys):
    assert main(["denoise", "photos", "-o", "out", "--json"]) == 0
    used = [(file["output"], file["model"], file["notes"]) for file in printed(capsys)["files"]]
    assert used == [
        ("out/a.png", "denoise-colour", []), ("out/b.png", "denoise-grey", []), ("out/c.jpg", "denoise-colour", []),
    ]  # fmt: skip


def test_denoising_by_a_diffusion_model(place, capsys):
    run = ["denoise", "photos/b.png", "--model", "diffusion", "--json", "-o"]
    assert main([*run, "auto.png"]) == 0
    (file,) = printed(capsys)["files"]
    assert file["notes"] == [f"the noise was estimated: sigma {file['sigma']:.1f} on the 0–255 scale"]
    for name, options in (("one", []), ("again", []), ("other", ["--seed", "1"])):
        sample = ["--sigma", "30", "--mode", "sample", "--steps", "3", *options]
        assert main([*run, f"{name}.png", *sample]) == 0
        assert printed(capsys)["files"][0]["sigma"] == 30
    one, again, other = ((place / f"{name}.png").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other


def test_a_blind_model_says_that_it_needs_no_sigma(place, capsys):
    assert main(["denoise", "photos/b.png", "--model", "denoiser", "-o", "x.png", "--sigma", "9", "--json"]) == 0
    assert printed(capsys)["files"][0]["notes"] == ["the sigma was not used: the model is blind"]


def test_restorers_have_a_profile(place, capsys):
    assert main(["profile", "upscaler", "--sample-size", "9", "--repeats", "1", "--json"]) == 0
    assert printed(capsys)["sample_shape"] == [1, 2, 9, 9]


def test_upscaling(place, capsys):
    assert main(["upscale", "photos/a.png", "--model", "upscaler", "-o", "large.webp"]) == 0
    assert Image.open("large.webp").size == (33, 39)
    assert "1 of 1 images" in capsys.readouterr().out


def test_inpainting(place, capsys):
    run = ["inpaint", "photos/c.jpg", "--mask", "mask.png", "--model", "diffusion", "-o", "filled.png"]
    assert main([*run, "--steps", "4", "--jump-length", "2", "--resamples", "2"]) == 0
    before, after = (np.asarray(Image.open(p)) for p in ("photos/c.jpg", "filled.png"))
    hole = np.eye(8, dtype=bool)
    np.testing.assert_array_equal(before[~hole], after[~hole])
    assert not (before[hole] == after[hole]).all()


def test_a_bad_file_is_counted_and_the_rest_is_done(place, capsys):
    (place / "photos" / "b.png").write_bytes(b"\x89PNG torn")
    assert main(["denoise", "photos", "missing.png", "--model", "denoiser", "-o", "out", "--json"]) == 2
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert [f["input"] for f in result["files"]] == ["photos/a.png", "photos/c.jpg"]
    assert [f["input"] for f in result["failed"]] == ["photos/b.png", "missing.png"]
    assert result["failed"][1]["reason"] == "the file does not exist"
    assert len([line for line in output.err.splitlines() if line.startswith("photos/b.png: ")]) == 1


WRONG = {
    "no input": (["denoise", "-o", "x"], "IN is missing"),
    "no output": (["denoise", "photos"], "--output is missing"),
    "no model": (["denoise", "photos", "-o", "x", "--model", "nope"], "nope does not exist"),
    "sigma": (["denoise", "photos", "-o", "x", "--sigma", "much"], "auto or a number"),
    "tile": (["denoise", "photos", "-o", "x", "--tile", "8"], "twice the overlap"),
    "steps": (["denoise", "photos", "-o", "x", "--steps", "0"], "--steps 0 must be at least 1"),
    "sample of a denoiser": (
        ["denoise", "photos", "-o", "x", "--model", "denoiser", "--mode", "sample"],
        "needs a diffusion model",
    ),
    "another task": (["denoise", "photos", "-o", "x", "--model", "upscaler"], "trained for upscale"),
    "another task too": (["upscale", "photos", "-o", "x", "--model", "diffusion"], "trained for generate"),
    "for denoising": (["inpaint", "photos", "--mask", "mask.png", "-o", "x", "--model", "denoiser"], "for denoise"),
    "classes": (["denoise", "photos", "-o", "x", "--model", "classes"], "trained with classes"),
    "channels": (["denoise", "photos", "-o", "x", "--model", "rgba"], "4 channels in and 4 out"),
    "channels of the condition": (["upscale", "photos", "-o", "x", "--model", "odd"], "1 channels in and 1 out"),
    "scale": (["upscale", "photos", "-o", "x", "--model", "upscaler", "--scale", "2"], "trained for scale 3"),
    "scale of none": (["upscale", "photos", "-o", "x", "--scale", "3"], "no packaged model has the factor 3"),
    "scale of nothing": (["upscale", "photos", "-o", "x", "--scale", "9"], "--scale 9 must be one of 2, 3, 4"),
    "sample of a mean": (
        ["upscale", "photos", "-o", "x", "--model", "upscaler", "--mode", "sample"],
        "for mode 'mean' only",
    ),
    "no mask": (["inpaint", "photos", "-o", "x", "--model", "diffusion"], "--mask is missing"),
    "mask missing": (
        ["inpaint", "photos", "-o", "x", "--model", "diffusion", "--mask", "nope.png"],
        "nope.png cannot be read",
    ),
    "inpainting by none": (["inpaint", "photos", "-o", "x", "--mask", "mask.png"], "--model is missing"),
    "sampling from it": (["sample", "denoiser"], "trained for `cunet denoise`"),
    "no data": (["evaluate", "denoise"], "--data is missing"),
    "evaluate what": (["evaluate", "inpaint", "--data", "photos"], "unknown verb 'inpaint'"),
    "two experiments": (["evaluate", "denoise", "--data", "photos", "--sigma", "5", "--timesteps", "5"], "give one"),
    "steps of a denoiser": (
        ["evaluate", "denoise", "--data", "photos", "--model", "denoiser", "--timesteps", "50"],
        "use --sigma",
    ),
    "no such step": (
        ["evaluate", "denoise", "--data", "photos", "--model", "diffusion", "--timesteps", "1000"],
        "must lie in 0 to 999",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_bad_input_is_one_line_and_exit_code_2(kind, place, capsys):
    before = sorted(place.rglob("*"))
    arguments, message = WRONG[kind]
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("cunet")
    assert ": error: " in line
    assert message in line
    assert sorted(place.rglob("*")) == before


def test_a_mask_of_another_size_is_a_bad_file(place, capsys):
    run = ["inpaint", "photos/a.png", "photos/c.jpg", "--mask", "mask.png", "--model", "diffusion", "-o", "out"]
    assert main([*run, "--steps", "3", "--jump-length", "1", "--resamples", "1"]) == 2
    assert "the mask is 8x8 and the image 11x13" in capsys.readouterr().err
    assert [p.name for p in (place / "out").iterdir()] == ["c.jpg"]


def test_evaluating(place, capsys):
    (place / "photos" / "c.jpg").unlink()  # too small
    assert main(["evaluate", "denoise", "--data", "photos", "--model", "denoiser", "--sigma", "25", "--json"]) == 0
    result = printed(capsys)
    (row,) = result["rows"]
    assert (row["model"], row["sigma"], row["images"], row["lpips"]) == ("denoiser", 25, 2, None)
    assert row["input_psnr"] == pytest.approx(20.17, abs=0.5)  # 20 log10(255 / 25)
    assert row["parameters"] == DenoisingPipeline.from_pretrained("denoiser").unet.num_parameters()
    assert row["peak_memory_bytes"] > 0
    assert result["lpips"] == NO_LPIPS
    models = ["--model", "diffusion", "diffusion"]
    assert main(["evaluate", "denoise", "--data", "photos", *models, "--timesteps", "50", "400", "--num", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "timestep 400: PSNR" in lines[1]
    assert lines[0].split(";")[0] == lines[2].split(";")[0]  # the same seeds
    assert main(["evaluate", "upscale", "--data", "photos", "--model", "upscaler"]) == 2
    assert "SSIM needs 11 by 11" in capsys.readouterr().err
    (place / "larger").mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(place / "larger" / "a.png")
    assert main(["evaluate", "upscale", "--data", "larger", "--model", "upscaler", "--json"]) == 0
    assert printed(capsys)["rows"][0]["scale"] == 3


def test_a_name_that_neither_utf_8_nor_the_terminal_has(place):
    name = os.fsdecode(b"\xff \xe2\x98\x83.png")
    shutil.copy("photos/b.png", name)
    command = [sys.executable, "-m", "continuous_unet", "denoise", name, "--model", "denoiser", "-o", f"clean {name}"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("clean \\udcff \\u2603.png\n")
    assert (place / f"clean {name}").is_file()


def test_a_signal_stops_the_batch(place):
    """A real process, told to end while it works on the first of many large files."""
    rng = np.random.default_rng(0)
    (place / "many").mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (160, 160), dtype=np.uint8)).save(place / "many" / f"{i:02}.png")
    command = [sys.executable, "-m", "continuous_unet", "denoise", "many", "--model", "denoiser", "-o", "out"]
    process = subprocess.Popen(
        [*command, "--tile", "32", "--overlap", "8"], stderr=subprocess.PIPE, text=True, cwd=place
    )
    while not (place / "out").is_dir() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "stopped;" in errors
    done = list((place / "out").iterdir())
    assert 0 < len(done) < 30
    for path in done:
        Image.open(path).load()
