"""The library calls behind the verbs, from Python: on files, and on one photograph in memory."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from continuous_unet import ContinuousUNet2DModel, DenoisingPipeline, DiffusionSamplingPipeline, __version__
from continuous_unet.base.errors import InputError
from continuous_unet.base.signals import StopRequest
from continuous_unet.images.masks import mask_of
from continuous_unet.images.photographs import Photograph, read_photograph
from continuous_unet.tasks.denoise.options import DenoiseOptions
from continuous_unet.tasks.denoise.run import denoise_files, denoise_photograph
from continuous_unet.tasks.generate.options import SampleOptions
from continuous_unet.tasks.generate.run import sample_images
from continuous_unet.tasks.inpaint.options import InpaintOptions
from continuous_unet.tasks.inpaint.run import inpaint_files, inpaint_photograph
from continuous_unet.tasks.loading import load_restorer
from continuous_unet.tasks.upscale.options import UpscaleOptions
from continuous_unet.tasks.upscale.run import upscale_files, upscale_photograph

CASES = Path(__file__).parents[1] / "cases"


@pytest.fixture
def models(unet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    DiffusionSamplingPipeline(unet, DDPMScheduler()).save_pretrained("diffusion")
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "norm_type": "pixel", "add_attention": False}
    blind = ContinuousUNet2DModel(in_channels=1, out_channels=1, **sizes)
    torch.nn.init.normal_(blind.conv_out.weight, std=0.02)
    DenoisingPipeline(blind, sigma_max=55.0).save_pretrained("denoiser")


def pixels(path):
    return np.asarray(Image.open(path))


def test_denoising_files_and_one_in_memory(models):
    options = DenoiseOptions(inputs=[str(CASES / "i.png")], output="out.png", model="denoiser")
    result = denoise_files(options)
    assert (result.exit_code, result.facts) == (0, {"model": "denoiser", "mode": "mean"})
    photograph, facts = denoise_photograph(
        load_restorer("denoiser", "denoise"), options, read_photograph(CASES / "i.png")
    )
    np.testing.assert_array_equal(photograph.pixels[..., 0], pixels("out.png"))
    assert facts == {"sigma": None}
    assert not np.array_equal(pixels("out.png"), pixels(CASES / "i.png"))


def test_upscaling_one_in_memory():
    grey = np.random.default_rng(0).integers(0, 256, (9, 7, 1), dtype=np.uint8)
    pipeline = load_restorer("upscale-x2", "upscale")
    large, _ = upscale_photograph(pipeline, UpscaleOptions(), Photograph(grey))
    assert large.pixels.shape == (18, 14, 1)


@pytest.mark.parametrize("name", ["m255.png", "m01.png", "m_pal_red.png", "m_i32.tif", "m_la.png"])
def test_every_kind_of_mask_fills_the_same_pixels(name, models):
    options = InpaintOptions(
        inputs=[str(CASES / "i.png")],
        output="out.png",
        model="diffusion",
        mask=str(CASES / name),
        steps=4,
        jump_length=2,
        resamples=1,
    )
    assert inpaint_files(options).exit_code == 0
    hole = mask_of(Image.open(CASES / "m255.png"))
    changed = pixels("out.png") != pixels(CASES / "i.png")
    assert not changed[~hole[0].numpy()].any()
    assert changed.sum() > 20  # of the 25, some may come out as they were
    pipeline = load_restorer("diffusion", "inpaint")
    photograph, _ = inpaint_photograph(pipeline, options, hole, read_photograph(CASES / "i.png"))
    np.testing.assert_array_equal(photograph.pixels[..., 0], pixels("out.png"))


def test_a_mask_of_nothing_is_an_error(models):
    Image.new("L", (16, 16)).save("none.png")
    options = InpaintOptions(inputs=[str(CASES / "i.png")], output="out.png", model="diffusion", mask="none.png")
    with pytest.raises(InputError, match=r"^the mask marks none of its 256 pixels"):
        inpaint_files(options)


def test_sampling_to_a_grid_and_to_files(models):
    one = sample_images(SampleOptions(model="diffusion", num=3, steps=2, batch_size=2))
    assert (one.images, one.files, one.exit_code) == (3, ["samples.png"], 0)
    several = sample_images(SampleOptions(model="diffusion", num=3, steps=2, output="v1.5/"))
    assert several.files == ["v1.5/0000.png", "v1.5/0001.png", "v1.5/0002.png"]
    assert several.to_dict()["images_per_second"] > 0
    again = sample_images(SampleOptions(model="diffusion", num=1, steps=2, output="one/"))
    np.testing.assert_array_equal(pixels(again.files[0]), pixels(several.files[0]))


def test_sampling_from_an_image(models):
    Image.new("RGB", (20, 12), "white").save("white.png")

    def made(output, **more):
        result = sample_images(SampleOptions(model="diffusion", num=2, steps=20, output=output, **more))
        return [pixels(file) for file in result.files]

    noise, all_new = made("noise/"), made("new/", image="white.png", strength=1.0)
    np.testing.assert_array_equal(noise, all_new)
    little, much = made("little/", image="white.png", strength=0.05), made("much/", image="white.png", strength=0.5)
    assert np.mean(little) > 235
    assert np.abs(little[0].astype(int) - little[1]).max() > 0
    assert np.mean(much) < np.mean(little)
    for more, message in (
        ({"strength": 0.5}, "--strength is for an image"),
        ({"image": "none.png"}, "--image none.png cannot be read: the file does not exist"),
        ({"image": "white.png", "strength": 0.01}, "less than one step"),
    ):
        with pytest.raises(InputError, match=message):
            made("wrong/", **more)


def test_files_say_how_their_images_were_made(models):
    Image.new("L", (8, 8)).save("secret-folder.png")
    options = {"model": str(Path("diffusion").resolve()), "num": 2, "steps": 4, "seed": 3}
    image = {"image": str(Path("secret-folder.png").resolve()), "strength": 0.5}
    files = sample_images(SampleOptions(**options, **image, output="many/")).files
    texts = [Image.open(file).text["continuous-unet"] for file in files]
    expected = {"version": __version__, "model": "diffusion", "scheduler": "DDIMScheduler", "steps": 4, "seed": 3}
    expected_image = {"image": "secret-folder.png", "strength": 0.5}
    assert [json.loads(text) for text in texts] == [{**expected, **expected_image, "number": k} for k in range(2)]
    (grid,) = sample_images(SampleOptions(**options)).files
    assert json.loads(Image.open(grid).text["continuous-unet"]) == {**expected, "images": 2}


def test_sampling_that_is_stopped_says_what_is_there(models):
    class Later(StopRequest):
        asked = 0

        @property
        def signal(self):
            Later.asked += 1
            return 15 if Later.asked > 5 else None

        @signal.setter
        def signal(self, value):
            pass

    result = sample_images(SampleOptions(model="diffusion", num=3, steps=2, batch_size=1, output="s"), stop=Later())
    assert (result.stopped_by, result.exit_code, result.to_text()) == (15, 143, "")
    assert result.files == ["s/0000.png", "s/0001.png"]
    assert result.notes() == ["stopped; 2 files are there, each whole"]


def test_a_bare_model_that_takes_a_condition_is_refused(models):
    ContinuousUNet2DModel(sample_size=8, in_channels=4, out_channels=1, block_out_channels=(8, 16)).save_pretrained("c")
    with pytest.raises(InputError, match="takes 4 channels and gives 1"):
        sample_images(SampleOptions(model="c", num=1, steps=2))
    assert not Path("samples.png").exists()


def test_half_precision_variants_in_the_calls(models):
    pipeline = load_restorer("denoiser", "denoise")
    pipeline.unet.save_pretrained("denoiser/unet", variant="fp16")
    Path("denoiser/unet/diffusion_pytorch_model.safetensors").unlink()
    for variant in (None, "fp16"):
        options = DenoiseOptions(
            inputs=[str(CASES / "i.png")], output=f"{variant}.png", model="denoiser", variant=variant
        )
        assert denoise_files(options).exit_code == 0


@pytest.mark.parametrize("call", [denoise_files, upscale_files, inpaint_files, sample_images])
def test_calls_check_their_options(call):
    kind = {"denoise_files": DenoiseOptions, "upscale_files": UpscaleOptions, "inpaint_files": InpaintOptions}
    with pytest.raises(InputError, match="is missing"):
        call(kind.get(call.__name__, SampleOptions)())


def test_options_of_the_verbs_import_no_torch():
    import subprocess
    import sys

    modules = [
        f"continuous_unet.tasks.{name}.options" for name in ("generate", "distill", "denoise", "upscale", "inpaint")
    ]
    code = f"import sys, {', '.join(modules)}; assert not {{'torch', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
