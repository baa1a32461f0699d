"""Exported models of clips: parity, what the standalone runtime makes, and what is refused."""

import subprocess

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from continuous_unet import ContinuousUNet3DModel, VideoPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.deploy.export import export_model
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.standalone import runtime
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.samplers import set_timesteps
from tests.deploy.conftest import spoil_zeros

pytest.importorskip("onnxscript", reason="the export extra is not installed")
SIZE = (4, 8, 8)


def clips_of(**changes) -> VideoPipeline:
    small = {"block_out_channels": (8, 8), "norm_num_groups": 4, "patch_size": 2, "mid_block_type": None}
    model = ContinuousUNet3DModel(sample_size=SIZE, in_channels=1, out_channels=1, **{**small, **changes})
    scheduler = DDPMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2")
    return VideoPipeline(spoil_zeros(model), scheduler)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    pipeline = clips_of()
    pipeline.save_pretrained(folder / "model")
    assert main(["export", str(folder / "model"), "--output", str(folder / "x"), "--repeats", "1"]) == 0
    return pipeline, folder / "x"


def test_the_runtime_makes_the_clips_of_pytorch(exported):
    """Also those that continue a clip: its frames are in every input of the network, without noise."""
    pipeline, folder = exported
    model = runtime.load(folder)
    assert model.info["image_shape"] == [1, *SIZE]
    assert model.info["parity"]["max_error"] < 1e-5
    first, process = np.random.default_rng(0).random((1, 2, 8, 8), dtype=np.float32), process_of(pipeline.scheduler)
    for frames in (None, first):
        sampler = process.make_sampler("ddim")
        set_timesteps(sampler, 3)
        x = torch.tensor(np.stack([runtime.normal_noise(5, k, (1, *SIZE)) for k in range(2)]))

        def hold(x, frames=frames):
            return (
                x if frames is None else torch.cat([torch.tensor(frames * 2 - 1).expand(2, 1, 2, 8, 8), x[:, :, 2:]], 2)
            )

        for time in sampler.timesteps:
            with torch.no_grad():
                x = sampler.step(pipeline.unet(hold(x), time).sample, time, x).prev_sample
        made = runtime.generate(model, 2, steps=3, seed=5, sampler="ddim", first_frames=frames)
        np.testing.assert_allclose(made, (hold(x).numpy() / 2 + 0.5).clip(0, 1), rtol=0, atol=1e-5)
        assert made[:, :, 2:].std() > 0.05


def test_clips_are_written_without_torch(exported, tmp_path, without_torch):
    folder = exported[1]
    assert main(["run", str(folder), "--num", "2", "--steps", "2", "--output", str(tmp_path / "a.gif")]) == 0
    script = f"""{without_torch["prelude"]}
sys.path.insert(0, {str(folder)!r})
import runtime
sys.exit(runtime.main(["--num", "2", "--steps", "2", "--output", {str(tmp_path / "each")!r}]))
"""
    subprocess.run([*without_torch["command"], script], env=without_torch["environment"], check=True)
    assert sorted(path.name for path in (tmp_path / "each").iterdir()) == ["0000.gif", "0001.gif"]
    for path in (tmp_path / "a.gif", tmp_path / "each" / "0000.gif"):
        with Image.open(path) as film:
            assert film.n_frames == SIZE[0]
    with Image.open(tmp_path / "each" / "0000.gif") as film:
        made = runtime.to_pixels(runtime.generate(runtime.load(folder), 1, steps=2)[:, :, 0])
        assert np.array_equal(np.asarray(film.convert("L")), made[0, :, :, 0])


def test_clips_go_to_a_gif_if_nothing_else_is_asked_for(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(exported[1]), "--num", "1", "--steps", "1"]) == 0
    assert capsys.readouterr().out.startswith("1 clip in ")
    assert [path.name for path in tmp_path.iterdir()] == ["clips.gif"]


def test_what_does_not_fit_clips_is_refused(exported, tmp_path, capsys):
    folder = exported[1]
    run = ["run", str(folder), "--steps", "2", "--num", "1", "--output"]
    for words, message in (
        ([*run, str(tmp_path / "a.png")], "only .gif files are written"),
        ([*run, str(tmp_path / "a.mp4")], "only .png (.gif for clips) files are written"),
        ([*run, str(tmp_path / "x"), "--image", str(tmp_path / "no.png")], "cannot be read"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    model = runtime.load(folder)
    for call, message in (
        (lambda: runtime.denoise(model, np.zeros((1, 1, 8, 8)), 20), "makes clips"),
        (lambda: runtime.generate(model, 1, image=np.zeros((1, 1, 8, 8))), "models of images"),
        (lambda: runtime.generate(model, 1, first_frames=np.zeros((1, 4, 8, 8))), r"expected \(1, 1 to 3, 8, 8\)"),
        (lambda: model(np.zeros((1, 1, 3, 8, 8)), 0), r"takes \(B, 1, 4, H, W\)"),
        (lambda: model(np.zeros((1, 1, 4, 8, 16)), 0), "exported for 8x8 only"),
    ):
        with pytest.raises(runtime.ExportedModelError, match=message):
            call()
    for options, message in (
        ({"any_size": True}, "any-size is for models of images"),
        ({"web": True}, "web is for models of images"),
        ({"precision": "int8", "calibration_data": "digits"}, "int8 is for models that make images"),
    ):
        with pytest.raises(InputError, match=message):
            export_model(clips_of(), ExportOptions(output=str(tmp_path / "y"), **options))
