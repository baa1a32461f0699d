"""Faster PyTorch computes the same: compiled without breaks and only once, packaged, with precomputed embeddings."""

import contextlib
import shutil

import pytest
import torch
from diffusers import DDIMScheduler

from continuous_unet.cli.main import main
from continuous_unet.deploy.export import export_model
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.models.conditioning import AdaptiveScaleShift
from continuous_unet.tasks.generate import pipeline as generation
from tests.deploy.conftest import continuous, pipeline

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
SMALL = {"block_out_channels": (8,), "mid_block_type": None, "num_solver_steps": 1}


@needs_compiler
def test_compiles_whole_and_once():
    unet = continuous(**SMALL)
    x = torch.randn(2, 1, 8, 8)
    torch._dynamo.reset()
    with torch.no_grad():
        expected = [unet(x * k, torch.tensor(100 * k)).sample for k in (1, 2)]
        unet.compile(fullgraph=True)
        first = unet(x, torch.tensor(100)).sample
        with torch.compiler.set_stance("fail_on_recompile"):
            second = unet(x * 2, torch.tensor(200)).sample
    for got, wanted in zip((first, second), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@needs_compiler
def test_sample_compile_makes_the_same_image(tmp_path):
    from PIL import Image, ImageChops

    model = tmp_path / "model"
    pipeline(continuous(**SMALL)).save_pretrained(model)
    for name, options in (("plain", []), ("compiled", ["--compile"])):
        output = ["--num", "1", "--steps", "2", "--output", str(tmp_path / f"{name}.png")]
        assert main(["sample", str(model), *output, *options]) == 0
    images = [Image.open(tmp_path / f"{name}.png").convert("L") for name in ("plain", "compiled")]
    assert max(ImageChops.difference(*images).getextrema()) <= 1


@pytest.mark.slow
@needs_compiler
def test_aotinductor_package(tmp_path):
    info = export_model(
        pipeline(continuous(**SMALL)), ExportOptions(format="aoti", output=str(tmp_path / "out"), repeats=0)
    )
    assert info["parity"]["max_error"] < 1e-4
    assert (tmp_path / "out" / "network.aoti.pt2").is_file()


@pytest.fixture
def embedded(monkeypatch):
    """The batch sizes with which scales and shifts are computed."""
    sizes = []
    compute = AdaptiveScaleShift.scale_shift
    monkeypatch.setattr(
        AdaptiveScaleShift, "scale_shift", lambda self, t, emb: sizes.append(len(emb)) or compute(self, t, emb)
    )
    return sizes


@pytest.mark.parametrize("kind", [{}, {"field_type": "general", "method": "rk4", "gradient": "backprop"}])
def test_precomputed_embeddings_are_the_embeddings(kind, embedded):
    unet = continuous(**kind)
    x = torch.randn(3, 1, 8, 8)
    timesteps = torch.tensor([900, 500, 3])
    with torch.no_grad():
        expected = [unet(x, t).sample for t in timesteps]
        with unet.precompute_embeddings(timesteps):
            embedded.clear()
            for t, wanted in zip(timesteps, expected, strict=True):
                torch.testing.assert_close(unet(x, t).sample, wanted, atol=1e-6, rtol=1e-5)
            assert not embedded
            unet(x, 7)  # not in the table
            assert set(embedded) == {3}
            embedded.clear()
            each = unet(x, torch.tensor([900, 500, 3])).sample  # one per image
            assert set(embedded) == {3}
        torch.testing.assert_close(each[1], expected[1][1], atol=1e-6, rtol=1e-5)
        embedded.clear()
        unet(x, timesteps[0])
        assert embedded  # the table is gone


def test_gradients_are_not_cut_off_by_the_table():
    unet = continuous()
    with unet.precompute_embeddings([5.0]):
        unet(torch.randn(1, 1, 8, 8), 5).sample.sum().backward()
    assert unet.time_embedding.linear_1.weight.grad.abs().max() > 0


def test_class_conditional_models_refuse():
    with (
        pytest.raises(ValueError, match="depend on the class"),
        continuous(num_class_embeds=3).precompute_embeddings([1.0]),
    ):
        pass


def test_sampling_precomputes_and_gives_the_same_images(monkeypatch, embedded):
    pipe = pipeline(continuous())
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)

    def images():
        return pipe(
            batch_size=2, num_inference_steps=6, generator=torch.Generator().manual_seed(0), output_type="pt"
        ).images

    fast = images()
    assert set(embedded) == {1, 6}  # one look at the solver's times, then all timesteps at once
    monkeypatch.setattr(generation, "_precomputed", lambda *_: contextlib.nullcontext())
    torch.testing.assert_close(fast, images(), atol=1e-5, rtol=1e-4)
