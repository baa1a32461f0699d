"""Exports of models of latents: runtime.py decodes and encodes by itself, as PyTorch does."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.codecs.autoencoder import Autoencoder
from continuous_unet.codecs.base import Scale
from continuous_unet.deploy.codecs import for_codec
from continuous_unet.deploy.export import export_model
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.standalone import runtime
from tests.codecs.kinds import kl, tiny
from tests.deploy.conftest import continuous

pytest.importorskip("onnxscript", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="the export extra is not installed")


def of_latents(network):
    number = network.config.latent_channels
    codec = Autoencoder(network, Scale((0.1,) * number, (0.7,) * number))
    unet = continuous(
        sample_size=4, in_channels=number, out_channels=number, block_out_channels=(8,), mid_block_type=None,
        num_solver_steps=1,
    )  # fmt: skip
    options = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
    return DiffusionSamplingPipeline(unet, DDPMScheduler(**options), codec=codec)


@pytest.fixture(scope="module", params=[tiny, kl])
def exported(request, tmp_path_factory):
    pipeline, folder = of_latents(request.param()), tmp_path_factory.mktemp("exports") / "latents"
    options = {"any_size": True} if request.param is tiny else {"static_shape": "2x8x8"}
    info = export_model(pipeline, ExportOptions(output=str(folder), repeats=0, **options))
    return pipeline, folder, info


def test_what_the_runtime_makes_is_decoded(exported):
    pipeline, folder, info = exported
    model, codec = runtime.load(folder), pipeline.codec
    assert model.image_shape == (3, 8, 8)
    assert info["codec"]["factor"] == 2
    assert {info["codec"]["decoder"], info["codec"]["encoder"]} < set(info["files"])
    noise = np.stack([runtime.normal_noise(3, k, model.shape) for k in range(3)])
    latents = runtime.sample(model, model.schedule, noise, 2, "ddim")
    expected = codec.decode(torch.from_numpy(latents)).numpy() / 2 + 0.5
    images = runtime.generate(model, 3, steps=2, sampler="ddim", seed=3)
    assert images.shape == (3, 3, 8, 8)
    np.testing.assert_allclose(images, expected.clip(0, 1), atol=1e-5)

    picture = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    encoded = codec.encode(torch.from_numpy(picture * 2 - 1)).numpy()
    np.testing.assert_allclose(model.encode(picture * 2 - 1), encoded, atol=1e-5)
    begin = np.broadcast_to(encoded, noise.shape)
    latents = runtime.sample(model, model.schedule, noise, 4, "ddim", pictures=begin, strength=0.5)
    expected = codec.decode(torch.from_numpy(latents)).numpy() / 2 + 0.5
    again = runtime.generate(model, 3, steps=4, sampler="ddim", seed=3, image=picture, strength=0.5)
    np.testing.assert_allclose(again, expected.clip(0, 1), atol=1e-4)


def test_sizes_are_those_of_images(exported):
    _, folder, info = exported
    model = runtime.load(folder)
    with pytest.raises(runtime.ExportedModelError, match="multiples of 2"):
        runtime.generate(model, 1, steps=1, size=(8, 9))
    if model.any_size:
        assert runtime.generate(model, 1, steps=1, size=(8, 16)).shape == (1, 3, 8, 16)
    else:
        assert info["inputs"][0]["shape"] == [2, 3, 4, 4]
    with pytest.raises(runtime.ExportedModelError, match="works on latents"):
        runtime.denoise(model, np.zeros((1, 3, 8, 8), np.float32), 25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "torch"}, "--format torch holds the network alone.*onnx or openvino"),
        ({"precision": "int8", "calibration_data": "digits"}, "--precision int8 is not for models of latents"),
        ({"static_shape": "1x9x8"}, "multiple of 2"),
    ],
)
def test_what_is_not_possible_is_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        for_codec(of_latents(tiny()).codec, ExportOptions(model="x", output="y", **options))


def test_a_damaged_codec_gets_one_line(exported, tmp_path):
    _, folder, info = exported
    copy = shutil.copytree(folder, tmp_path / "copy")
    for entries in ({"factor": 0}, {"channels": 300}, {"decoder": "other.onnx"}):
        (copy / "export.json").write_text(json.dumps({**info, "codec": {**info["codec"], **entries}}))
        with pytest.raises(runtime.ExportedModelError, match=r"codec is .* which no export has"):
            runtime.load(copy)
    swapped = {**info["codec"], "decoder": info["codec"]["encoder"], "encoder": info["codec"]["decoder"]}
    (copy / "export.json").write_text(json.dumps({**info, "codec": swapped}))
    with pytest.raises(runtime.ExportedModelError, match="the codec in"):
        runtime.load(copy)
