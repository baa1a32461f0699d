"""The models that come with the package: there, good, seamless, and quick to find by name."""

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image, ImageDraw

import continuous_unet
from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.images.decode import to_array
from continuous_unet.images.resampling import degraded, enlarge
from continuous_unet.images.tiling import Tiles
from continuous_unet.tasks import packaged
from continuous_unet.tasks.loading import load_model, load_pipeline, load_restorer
from continuous_unet.tasks.packaged import describe, pretrained_models
from continuous_unet.training import TrainConfig

NAMES = ["denoise-grey", "denoise-colour", "upscale-x2", "upscale-x4"]


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
    assert set(NAMES) <= set(pretrained_models())
    for name in NAMES:
        card = (Path(continuous_unet.__file__).parent / "pretrained" / name / "README.md").read_text(encoding="utf-8")
        assert "How it was made" in card
        assert "PSNR" in card


def test_the_list_says_what_the_files_say():
    for name in pretrained_models():
        known = describe(name)
        task = name.split("-")[0] if name in NAMES else "generate"
        model = load_model(name)
        unet, scale = model.unet, model.facts.conditions.guidance_scale
        assert (known.task, known.parameters, known.channels) == (task, unet.num_parameters(), unet.config.out_channels)
        assert (known.guidance_scale, "guidance" in known.images()) == (scale, scale != 1)
        assert known.license == "apache-2.0"
        assert known.data
        assert known.figures
    assert "10 classes, guidance 2" in describe("digits").images()
    assert describe("digits-distilled").images() == "32x32 grey, 10 classes, 1 to 4 steps"
    assert describe("pictograms-distilled").images() == "32x32 colour, 12 classes, 2 steps"
    assert any("PSNR 28.92 dB (BSD68, sigma 25)" in figure for figure in describe("denoise-grey").figures)


@pytest.fixture
def little(unet, tmp_path, monkeypatch):
    """A model of the package that makes images, in half precision and laid out as a run."""
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    DiffusionSamplingPipeline(unet.half(), DDPMScheduler()).save_pretrained(tmp_path / "pretrained/little/model")
    return "little"


def test_verbs_take_a_model_of_the_package_by_name(little, tmp_path, capsys):
    assert load_pipeline(little).unet.dtype == torch.float32
    assert main(["sample", little, "--num", "1", "--steps", "1", "-o", "a.png"]) == 0
    assert main(["profile", little, "--repeats", "1"]) == 0
    assert main(["models"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(little))
    assert "8x8 grey" in line
    config = TrainConfig.from_dict({"data": "digits", "output": "run", "start_from": little})
    assert config.with_absolute_paths().model.start_from == little


START = [
    "train",
    "--data",
    "shapes",
    "--steps",
    "1",
    "--num-samples",
    "1",
    "--sampling-steps",
    "1",
    "--batch-size",
    "2",
    "--channels",
    "1",
]


def test_training_starts_from_a_model_of_the_package(little, tmp_path):
    """At a learning rate of nearly zero its weights stay, in float32, and the run can be sampled and resumed."""
    words = [*START, "--start-from", little, "--image-size", "8", "--learning-rate", "1e-30", "--output", "run"]
    assert main(words) == 0
    before, after = (load_pipeline(name).unet.state_dict() for name in (little, "run"))
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=1e-6, msg=key)
    assert main(["train", "--output", "run", "--resume", "--steps", "2"]) == 0
    assert TrainConfig.load(tmp_path / "run/config.yaml").model.start_from == little


def test_a_model_of_the_package_teaches(little, tmp_path):
    words = ["distill", little, *START[1:], "--method", "ect", "--output", "student"]
    assert main(words) == 0
    assert (tmp_path / "student/teacher").is_dir()
    assert main(["sample", "student", "--steps", "1", "--num", "1", "-o", "b.png"]) == 0


def test_one_line_says_all_that_differs_from_a_model_to_start_from(little, tmp_path, capsys):
    process = ["--objective", "v_prediction", "--noise-schedule", "squaredcos_cap_v2"]
    assert main([*START, "--start-from", little, "--image-size", "12", *process, "--output", "run"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith(
        "differs from this run in the size of the images (8, and here 12), and in the objective (epsilon, and here "
        "v_prediction), and in the noise schedule; make them alike (--image-size 8 --objective epsilon "
        "--noise-schedule linear)"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sample", "litle"], "litle does not exist; expected a run folder of `cunet train`, a saved model, or one of"),
        (["models", "litle"], "litle is not a model of the package; expected one of little; did you mean little?"),
        (["run", "little"], "little is a model of the package; export it first (cunet export little --output"),
        (["schedule", "little", "--steps", "1"], "little comes with the package and is not changed; copy it first"),
    ],
)
def test_names_that_do_not_fit_get_one_line(words, expected, little, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_a_folder_takes_precedence(little, tmp_path):
    (tmp_path / little).mkdir()
    with pytest.raises(InputError, match="little holds no model"):
        load_pipeline(little)


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
    verb = name.split("-")[0]
    pipeline = load_restorer(name, verb)
    scale = 1 if verb == "denoise" else pipeline.config.scale
    clean = drawing(264 * scale, 240 * scale)
    if verb == "denoise":
        given = clean + 25 / 255 * torch.randn(clean.shape)
    else:
        given = degraded(clean[None], scale)[0][0]
    tiles = Tiles(144, 64)  # of the small image
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
