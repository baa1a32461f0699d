"""The models that come with the package: there, good, seamless, and quick to find by name."""

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

import continuous_unet
from continuous_unet.cli.main import main
from continuous_unet.images.decode import to_array
from continuous_unet.images.resampling import degraded, enlarge
from continuous_unet.images.tiling import Tiles
from continuous_unet.tasks.loading import load_restorer, pretrained_models

NAMES = ["denoise-grey", "upscale-x2", "upscale-x4"]


def drawing(width=176, height=144):
    """Edges, curves and ramps, grey, in [0, 1]: `(1, H, W)`."""
    image = Image.new("L", (4 * width, 4 * height), 90)
    draw = ImageDraw.Draw(image)
    for i in range(24):
        x, y = 29 * i % width * 4, 53 * i % height * 4
        shape = draw.ellipse if i % 2 else draw.rectangle
        shape((x, y, x + 40 + 9 * i, y + 60 + 5 * i), fill=(37 * i) % 256, outline=(91 * i) % 256, width=6)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(to_array(small, 1) / 2 + 0.5)


def psnr(one, other):
    return float(-10 * ((one.clamp(0, 1) - other) ** 2).mean().log10())


def test_they_are_there_with_their_cards():
    assert pretrained_models() == NAMES
    for name in NAMES:
        card = (Path(continuous_unet.__file__).parent / "pretrained" / name / "README.md").read_text(encoding="utf-8")
        assert "How it was made" in card
        assert "PSNR" in card


@pytest.mark.parametrize(("sigma", "gain"), [(15, 4), (25, 6), (50, 8)])
def test_the_denoiser_denoises(sigma, gain):
    clean = drawing()
    noisy = clean + sigma / 255 * torch.randn(clean.shape)
    restored = load_restorer("denoise-grey", "denoise")(noisy, output_type="pt").images[0]
    assert psnr(restored, clean) > psnr(noisy, clean) + gain


@pytest.mark.parametrize("scale", [2, 4])
def test_the_upscalers_beat_bicubic_interpolation(scale):
    clean = drawing()
    small, enlarged = degraded(clean[None], scale)
    restored = load_restorer(f"upscale-x{scale}", "upscale")(small, output_type="pt").images[0]
    assert psnr(restored, clean) > psnr(enlarged[0], clean) + 1


@pytest.mark.parametrize("name", NAMES)
def test_tiles_leave_no_seam(name):
    """What is cut into tiles differs from the whole by less than 0.01 dB."""
    clean = drawing(264, 240)
    verb = name.split("-")[0]
    pipeline = load_restorer(name, verb)
    if verb == "denoise":
        given, tiles = clean + 25 / 255 * torch.randn(clean.shape), Tiles(144, 64)
    else:
        scale = pipeline.config.scale
        given, tiles = degraded(clean[None], scale)[0][0], Tiles(144 // scale, 64 // scale)
    whole, tiled = (pipeline(given, tiles=t, output_type="pt").images[0] for t in (Tiles(512, 64), tiles))
    assert not torch.equal(whole, tiled)  # there were tiles
    assert abs(psnr(whole, clean) - psnr(tiled, clean)) < 0.01
    assert float((whole - tiled).abs().max()) < 4 / 255


def test_the_verbs_find_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (12, 8), 99).save("a.png")
    assert main(["denoise", "a.png", "-o", "b.png"]) == 0
    assert main(["upscale", "a.png", "-o", "c.png"]) == 0
    assert Image.open("c.png").size == (24, 16)
    assert main(["upscale", "a.png", "-o", "d.png", "--scale", "4"]) == 0
    assert Image.open("d.png").size == (48, 32)
    assert main(["upscale", "a.png", "-o", "e.png", "--mode", "sample"]) == 2


def test_colour_is_kept():
    """The colour of a flat image is the same when it is enlarged."""
    flat = torch.tensor([0.2, 0.5, 0.8])[:, None, None].expand(3, 10, 10)
    restored = load_restorer("upscale-x2", "upscale")(flat, output_type="pt").images[0]
    torch.testing.assert_close(restored - restored[:1], enlarge(flat[None], 2)[0] - 0.2, rtol=0, atol=1e-4)
