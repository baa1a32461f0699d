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

import continuous_unet
from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.tasks.generate.options import SampleOptions
from continuous_unet.tasks.generate.run import sample_images
from continuous_unet.tasks.loading import load_model_or_preset, load_pipeline, load_restorer

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
    "10^308 long": (lambda p: edit(p / "unet" / "config.json", integration_time=1e308), r"numbers up to 1e\+30"),
    "10^6 levels": (lambda p: edit(p / "unet" / "config.json", block_out_channels=[8] * 10**6), "at most 64"),
    "10^9 timesteps": (
        lambda p: edit(p / "scheduler" / "scheduler_config.json", num_train_timesteps=10**9),
        "up to 65536",
    ),
    "unknown betas": (lambda p: edit(p / "scheduler" / "scheduler_config.json", beta_schedule="x"), "cannot be made"),
    "deep JSON": (lambda p: (p / "unet" / "config.json").write_text("[" * 10**6), "cannot be read as JSON"),
    "a pipe": (lambda p: ((p / "unet" / WEIGHTS).unlink(), os.mkfifo(p / "unet" / WEIGHTS)), "not a regular file"),
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
    "not a scheduler": (lambda p: edit(p / "model_index.json", scheduler=["diffusers", "logging"]), "which is not one"),
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
    "only a pickle": (only_a_pickle, "pickled weights are not read"),
    "only an honest pickle": (only_an_honest_pickle, "pickled weights are not read"),
    "a weight is missing": (drop_a_weight, "conv_in.weight"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_refused(kind, saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    damage, message = BAD[kind]
    damage(saved)
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
    with pytest.raises(InputError, match=r"do not fit its config\.json: .* is .*, not"):
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


def shard(saved, variant=None):
    """Saves the U-Net anew, in several files."""
    unet = load_pipeline(saved).unet
    (saved / "unet" / WEIGHTS).unlink()
    unet.save_pretrained(saved / "unet", max_shard_size="10KB", variant=variant)
    return sorted((saved / "unet").glob("*-of-*.safetensors"))


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_several_files(saved, unet, variant):
    assert len(shard(saved, variant)) > 2
    assert same(load_pipeline(saved).unet, unet)
    assert same(load_pipeline(saved, variant=variant).unet, unet)


def test_variants_by_name(saved, unet):
    unet.save_pretrained(saved / "unet", variant="half")
    for parameter in unet.parameters():
        parameter.data.zero_()
    unet.save_pretrained(saved / "unet", variant="zero")
    assert load_pipeline(saved).unet.conv_in.weight.abs().sum() > 0  # without a variant as long as there is one
    assert load_pipeline(saved, variant="zero").unet.conv_in.weight.abs().sum() == 0
    with pytest.raises(InputError, match=r"no fp16 weights .*the variants half, zero exist, name one with --variant"):
        load_pipeline(saved, variant="fp16")
    (saved / "unet" / WEIGHTS).unlink()
    with pytest.raises(InputError, match="the variants half, zero exist"):
        load_pipeline(saved)
    with pytest.raises(InputError, match=r"no \.\./\.\./x weights"):
        load_pipeline(saved, variant="../../x")


def name_a_file_elsewhere(saved, shards):
    index = saved / "unet" / f"{WEIGHTS}.index.json"
    edit(index, weight_map={"conv_in.weight": f"../{WEIGHTS}"})


def name_no_shard(saved, shards):
    edit(saved / "unet" / f"{WEIGHTS}.index.json", weight_map=[])


def pickled_shard(saved, shards):
    index = saved / "unet" / f"{WEIGHTS}.index.json"
    edit(index, weight_map={"conv_in.weight": "diffusion_pytorch_model-1.bin"})


def cut_a_shard(saved, shards):
    shards[1].write_bytes(shards[1].read_bytes()[:-100])


def narrow_a_weight(saved, shards):
    tensors = load_file(shards[0])
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name][:1].clone()}, shards[0])


SHARDS = {
    "elsewhere": (name_a_file_elsewhere, "does not name shards"),
    "none": (name_no_shard, "does not name shards"),
    "a pickle": (pickled_shard, "does not name shards"),
    "missing": (lambda saved, shards: shards[1].unlink(), "is missing; the model is incomplete"),
    "cut off": (cut_a_shard, "it is damaged"),
    "other shapes": (narrow_a_weight, "do not fit its config.json"),
}


@pytest.mark.parametrize("kind", SHARDS)
def test_shards_are_checked_as_one_file_is(kind, saved):
    damage, message = SHARDS[kind]
    damage(saved, shard(saved))
    with pytest.raises(InputError, match=message):
        load_pipeline(saved)


def test_loading_draws_no_random_numbers(saved):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_pipeline(saved)
    assert torch.equal(torch.rand(3), expected)


def test_other_families_are_loaded_for_python_and_refused_by_the_verbs(saved, tmp_path):
    from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler

    for scheduler in (EDMDPMSolverMultistepScheduler(), EDMEulerScheduler()):
        shutil.rmtree(saved / "scheduler")
        scheduler.save_pretrained(saved / "scheduler")
        edit(saved / "model_index.json", scheduler=["diffusers", type(scheduler).__name__])
        assert type(load_pipeline(saved).scheduler) is type(scheduler)
        for task in ("denoise", "inpaint"):
            with pytest.raises(InputError, match=f"process of {type(scheduler).__name__} .*not supported"):
                load_restorer(saved, task)
        with pytest.raises(InputError, match="not supported"):
            sample_images(SampleOptions(model=str(saved), output=str(tmp_path / "x.png"), num=1, steps=2))
    assert not (tmp_path / "x.png").exists()


INDEX = {
    "scale of a text": ("upscale-x2", {"scale": "2"}, "expected int"),
    "scale of nothing": ("upscale-x2", {"scale": 7}, "must be 2, 3 or 4"),
    "a number for yes": ("upscale-x2", {"can_sample": 1}, "expected bool"),
    "yes for a number": ("denoise-grey", {"sigma_max": True}, "expected float"),
    "too much noise": ("denoise-grey", {"sigma_max": 300.0}, "0 to 255"),
}


@pytest.mark.parametrize("kind", INDEX)
def test_options_in_the_index_are_checked(kind, tmp_path):
    name, changes, message = INDEX[kind]
    shutil.copytree(Path(continuous_unet.__file__).parent / "pretrained" / name, tmp_path / "model")
    task = name.partition("-")[0]
    load_restorer(tmp_path / "model", task)
    edit(tmp_path / "model" / "model_index.json", **changes)
    with pytest.raises(InputError, match=message):
        load_restorer(tmp_path / "model", task)
