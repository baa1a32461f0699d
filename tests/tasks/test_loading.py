"""What can be loaded, and what is refused before it is opened."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file

from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.tasks.loading import load_model_or_preset, load_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def saved(unet, tmp_path):
    DiffusionSamplingPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def same(unet, other):
    """Equal weights, bit for bit; equal outputs to rounding, since the CPU's kernel depends on where weights lie."""
    x = torch.randn(1, 1, 8, 8)
    weights = zip(unet.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in weights) and torch.allclose(
        unet(x, 3).sample, other(x, 3).sample, atol=1e-6
    )


def test_pipeline_run_and_bare_model(saved, unet):
    assert same(load_pipeline(saved).unet, unet)
    (saved.parent / "config.yaml").write_text("")
    assert same(load_pipeline(saved.parent).unet, unet)  # a run folder has the pipeline in `model`
    assert same(load_pipeline(saved / "unet").unet, unet)
    assert load_pipeline(saved, dtype=torch.float16).unet.dtype == torch.float16


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("trap-was-sprung"),))


def only_a_pickle(saved):
    (saved / "unet" / WEIGHTS).unlink()
    (saved / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap()))


def only_an_honest_pickle(saved):
    torch.save(load_file(saved / "unet" / WEIGHTS), saved / "unet" / "diffusion_pytorch_model.bin")
    (saved / "unet" / WEIGHTS).unlink()


def drop_a_weight(saved):
    path = saved / "unet" / WEIGHTS
    tensors = load_file(path)
    tensors.pop("conv_in.weight")
    save_file(tensors, path)


def whole_numbers(saved):
    path = saved / "unet" / WEIGHTS
    save_file({k: v.int() for k, v in load_file(path).items()}, path)


def not_finite(saved):
    path = saved / "unet" / WEIGHTS
    save_file({k: v * float("inf") for k, v in load_file(path).items()}, path)


def header_lies(saved):
    """The shape of the first weight, without the bytes for it."""
    path = saved / "unet" / WEIGHTS
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["conv_in.weight"]["shape"] = [10**9, 1, 3, 3]
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])


BAD = {
    "10^9 channels": (lambda p: edit(p / "unet" / "config.json", block_out_channels=[8, 10**9]), "numbers up to 65536"),
    "60,000 channels": (lambda p: edit(p / "unet" / "config.json", block_out_channels=[8, 60_000]), "do not fit"),
    "10^9 solver steps": (lambda p: edit(p / "unet" / "config.json", num_solver_steps=10**9), "numbers up to 1000"),
    "10^6 levels": (lambda p: edit(p / "unet" / "config.json", block_out_channels=[8] * 10**6), "at most 64"),
    "10^9 timesteps": (
        lambda p: edit(p / "scheduler" / "scheduler_config.json", num_train_timesteps=10**9),
        "up to 65536",
    ),
    "unknown betas": (lambda p: edit(p / "scheduler" / "scheduler_config.json", beta_schedule="x"), "cannot be made"),
    "deep JSON": (lambda p: (p / "unet" / "config.json").write_text("[" * 10**6), "cannot be read as JSON"),
    "a pipe": (lambda p: ((p / "unet" / WEIGHTS).unlink(), os.mkfifo(p / "unet" / WEIGHTS)), "no regular file"),
    "whole numbers for weights": (whole_numbers, "expected floating point"),
    "header lies": (header_lies, "cannot be read"),
    "not finite": (not_finite, "are not finite"),
    "missing": (lambda p: shutil.rmtree(p), "does not exist"),
    "empty": (lambda p: (shutil.rmtree(p), p.mkdir()), "holds no model"),
    "index is no json": (lambda p: (p / "model_index.json").write_text("{"), "cannot be read as JSON"),
    "index is a list": (lambda p: (p / "model_index.json").write_text("[]"), "expected a JSON object"),
    "other library": (lambda p: edit(p / "model_index.json", unet=["os", "system"]), "wants code from 'os'"),
    "a path": (lambda p: edit(p / "model_index.json", unet=["../evil", "X"]), "wants code from"),
    "other class": (lambda p: edit(p / "model_index.json", unet=["diffusers", "AutoModel"]), "expected Continuous"),
    "no scheduler": (lambda p: edit(p / "model_index.json", scheduler=None), "names no scheduler"),
    "not a scheduler": (lambda p: edit(p / "model_index.json", scheduler=["diffusers", "logging"]), "which is none"),
    "new scheduler": (
        lambda p: edit(p / "model_index.json", scheduler=["diffusers", "XScheduler"]),
        "has no scheduler",
    ),
    "class that is no name": (
        lambda p: edit(p / "unet" / "config.json", _class_name=["Evil"]),
        r"for the class \['Evil'\]",
    ),
    "class of config": (lambda p: edit(p / "unet" / "config.json", _class_name="Evil"), "for the class 'Evil'"),
    "wrong width": (
        lambda p: edit(p / "unet" / "config.json", block_out_channels=[8, 24]),
        "do not fit its config.json",
    ),
    "wrong option": (lambda p: edit(p / "unet" / "config.json", method="magic"), "method='magic' is unknown"),
    "truncated": (lambda p: (p / "unet" / WEIGHTS).write_bytes((p / "unet" / WEIGHTS).read_bytes()[:1000]), "damaged"),
    "only a pickle": (only_a_pickle, "pickled ones, are not read"),
    "only an honest pickle": (only_an_honest_pickle, "pickled ones, are not read"),
    "a weight is missing": (drop_a_weight, "conv_in.weight"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_refused(kind, saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spoil, message = BAD[kind]
    spoil(saved)
    with pytest.raises(InputError, match=message):
        load_pipeline(saved)
    assert not Path("trap-was-sprung").exists()


def test_nothing_is_allocated_for_what_is_refused(saved, monkeypatch):
    """Shapes are compared where nothing has memory; only then is a model made that has."""
    edit(saved / "unet" / "config.json", block_out_channels=[8, 60_000])
    devices, real = set(), torch.nn.Conv2d.__init__

    def init(self, *args, **options):
        real(self, *args, **options)
        devices.add(self.weight.device.type)

    monkeypatch.setattr(torch.nn.Conv2d, "__init__", init)
    with pytest.raises(InputError, match="should be"):
        load_pipeline(saved)
    assert devices == {"meta"}


def test_loaded_weights_do_not_hang_on_the_file(saved, unet):
    loaded = load_pipeline(saved).unet
    path = saved / "unet" / WEIGHTS
    os.truncate(path, 8)  # a mapped page of it would now end the process
    assert same(loaded, unet)


def test_a_pickle_beside_the_weights_is_not_opened(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (saved / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    load_pipeline(saved)
    assert not Path("trap-was-sprung").exists()


def test_a_run_without_a_model(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(InputError, match="no model yet"):
        load_pipeline(tmp_path)


def test_presets_by_name_and_solver_steps(saved):
    assert load_model_or_preset("tiny").config.sample_size == 16
    assert load_model_or_preset("base").config.in_channels == 3
    assert load_model_or_preset(str(saved), solver_steps=5).config.num_solver_steps == 5
    with pytest.raises(InputError, match="paper, tiny, small, base"):
        load_model_or_preset("huge")
    with pytest.raises(InputError, match="solver steps: num_steps=0"):
        load_model_or_preset("tiny", solver_steps=0)
    with pytest.raises(InputError, match="multiples of 4"):
        load_model_or_preset("tiny", sample_size=15)
