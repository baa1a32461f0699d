"""What version 0.1.0 saved still loads, and computes what it computed then."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from continuous_unet.base.errors import InputError
from continuous_unet.deploy.standalone import runtime
from continuous_unet.diffusion.samplers import make_scheduler
from continuous_unet.tasks.loading import load_model_or_preset, load_pipeline, load_restorer
from continuous_unet.training import TrainConfig, train

SAVED = Path(__file__).parent / "saved"
REFERENCE = load_file(SAVED / "reference.safetensors")
ROUNDING = {"atol": 1e-5, "rtol": 1e-4}


@pytest.mark.parametrize("name", ["generation", "class-conditional", "pruned"])
def test_predictions_of_saved_models_stay(name):
    unet = load_model_or_preset(str(SAVED / name))
    labels = torch.tensor([3, 7]) if name == "class-conditional" else None
    with torch.no_grad():
        prediction = unet(REFERENCE["x"], torch.tensor([10, 700]), class_labels=labels).sample
    torch.testing.assert_close(prediction, REFERENCE[f"{name}.prediction"], **ROUNDING)
    assert prediction.std() > 0.05  # the weights are not those of an untrained model, which predicts zeros


def test_samples_of_a_saved_run_stay():
    pipeline = load_pipeline(SAVED / "generation")
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler.config)
    generators = [torch.Generator().manual_seed(k) for k in (0, 1)]
    images = pipeline(2, generators, 6, output_type="pt").images
    torch.testing.assert_close(images, REFERENCE["generation.samples"], **ROUNDING)


@pytest.mark.parametrize(("name", "verb"), [("denoise", "denoise"), ("super-resolution", "upscale")])
def test_restored_photographs_stay(name, verb):
    restored = load_restorer(SAVED / name, verb)(REFERENCE["photo"], output_type="pt").images
    torch.testing.assert_close(restored, REFERENCE[f"{name}.restored"], **ROUNDING)


def test_a_model_with_a_setting_that_is_gone_is_refused_by_name(tmp_path):
    shutil.copytree(SAVED / "generation" / "model", tmp_path / "model")
    path = tmp_path / "model" / "unet" / "config.json"
    config = json.loads(path.read_text())
    assert config["read_velocity"] is False  # a file of version 0.1.0
    path.write_text(json.dumps({**config, "read_velocity": True}))
    with pytest.raises(InputError, match="read_velocity=True was removed") as refused:
        load_model_or_preset(str(tmp_path / "model"))
    assert len(str(refused.value).splitlines()) == 1


def test_an_export_still_computes_what_its_model_does():
    exported = runtime.load(SAVED / "exported", threads=1)
    computed = exported(REFERENCE["x"].numpy(), np.array([10.0, 700.0], np.float32), None)
    torch.testing.assert_close(torch.from_numpy(computed), REFERENCE["generation.prediction"], **ROUNDING)


@pytest.mark.parametrize("name", ["generation", "denoise"])
def test_a_run_is_not_resumed_with_other_draws_and_its_model_is_trained_further(name, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(SAVED / name, run)
    config = TrainConfig.load(run / "config.yaml").replaced(output=str(run), steps=6)
    with pytest.raises(InputError, match="other random draws, and cannot be resumed") as refused:
        train(config, resume=True)
    assert len(str(refused.value).splitlines()) == 1
    assert (run / "checkpoints" / "step-00000004").is_dir()  # nothing is lost
    new = config.replaced(output=str(tmp_path / "new"), start_from=str(run), model_options={}, steps=1)
    assert train(new).steps == 1
