"""Faster PyTorch computes the same: compiled without breaks and only once, and packaged."""

import shutil

import pytest
import torch

from continuous_unet.cli.main import main
from continuous_unet.deploy.export import export_model
from continuous_unet.deploy.options import ExportOptions
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
