"""What is asked for: classes by name and number, guidance with a known answer, rows of a picture, and refusals."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image

from continuous_unet import ContinuousUNet2DModel, DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.diffusion.samplers import make_scheduler
from continuous_unet.images.grids import make_grid
from continuous_unet.tasks.facts import ConditionFacts, Facts
from continuous_unet.tasks.generate import prediction
from continuous_unet.tasks.generate.request import class_number
from continuous_unet.tasks.loading import load_pipeline, load_restorer

STD = 0.1
MEANS = torch.tensor([0.2, -0.1, 0.0])
"""Of the pixels of each class; the last one stands for any class."""


def sampler(unet, facts=None, scheduler="ddim"):
    pipeline = DiffusionSamplingPipeline(unet, make_scheduler(scheduler, DDPMScheduler().config), facts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class ClassDenoiser(ModelMixin):
    """The best predictor of the noise where the pixels of a class are normal, in closed form."""

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self._config = SimpleNamespace(sample_size=16, in_channels=1, num_class_embeds=3, class_embed_type=None)
        self.batches = []

    @property
    def config(self):
        return self._config

    def forward(self, sample, timestep, class_labels):
        self.batches.append((int(timestep), len(sample)))
        alpha = DDPMScheduler().alphas_cumprod[int(timestep)]
        centred = sample - alpha.sqrt() * MEANS[class_labels][:, None, None, None]
        return SimpleNamespace(sample=(1 - alpha).sqrt() * centred / (alpha * STD**2 + 1 - alpha))


NAMED = Facts(conditions=ConditionFacts(("high", "low"), 2))


@pytest.mark.parametrize(
    ("label", "scale", "mean"), [("high", None, 0.2), ("high", 3, 0.6), (1, 2, -0.2), ("any", None, 0)]
)
def test_guidance_moves_the_mean_as_it_says(label, scale, mean):
    """Where all classes have one spread, guidance samples around `free + scale (asked - free)` of the means."""
    pipeline = sampler(ClassDenoiser(), NAMED)
    options = {"class_labels": label, "guidance_scale": scale, "output_type": "pt"}
    images = pipeline(16, torch.Generator().manual_seed(0), 200, **options).images * 2 - 1
    assert float(images.mean()) == pytest.approx(mean, abs=0.01)
    assert float(images.std()) == pytest.approx(STD, abs=0.01)


def test_guidance_is_one_batch_inside_its_interval_and_one_evaluation_outside():
    unet = ClassDenoiser()
    sampler(unet, NAMED)(3, num_inference_steps=10, class_labels=0, guidance_scale=2, guidance_interval=(0.3, 0.6))
    assert len(unet.batches) == 10
    assert {t for t, size in unet.batches if size == 6} == {t for t, _ in unet.batches if 0.3 <= t / 999 <= 0.6}
    unet.batches.clear()
    sampler(unet, NAMED)(3, num_inference_steps=10, class_labels=0, guidance_scale=1)
    assert {size for _, size in unet.batches} == {3}


def conditional(rows=4, **changes):
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
    unet = ContinuousUNet2DModel(**sizes, **{"num_class_embeds": rows, **changes}).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet


CATS = Facts(conditions=ConditionFacts(("cat", "dog", "7"), 3, guidance_scale=1.5))


@pytest.mark.parametrize("labels", ["dog", ["cat", "dog", "any"]])
@pytest.mark.parametrize("scale", [1.0, 2.5, None])
def test_embeddings_that_were_computed_before_give_the_same_images(labels, scale, monkeypatch):
    pipeline = sampler(conditional(), CATS)

    def images():
        generators = [torch.Generator().manual_seed(k) for k in range(3)]
        options = {"class_labels": labels, "guidance_scale": scale, "guidance_interval": (0.0, 0.5)}
        return pipeline(3, generators, 8, output_type="pt", **options).images

    fast = images()
    monkeypatch.setattr(prediction, "FEWEST_PRECOMPUTED", 100)
    torch.testing.assert_close(fast, images(), atol=1e-4, rtol=0)
    if scale is None:  # then it is that of the model
        scale = 1.5
        torch.testing.assert_close(fast, images(), atol=1e-4, rtol=0)
    scale = 7.0
    assert not torch.allclose(fast, images(), atol=0.01)


def test_solver_steps_of_a_call():
    unet = conditional()

    def image(**options):
        generator = torch.Generator().manual_seed(0)
        return sampler(unet, CATS)(1, generator, 5, class_labels=0, output_type="pt", **options).images

    once = image(num_solver_steps=4)
    assert not torch.allclose(once, image(), atol=1e-4)
    unet.set_solver(num_steps=4)
    torch.testing.assert_close(once, image(), atol=1e-5, rtol=0)
    for wrong in (0, 10_000):
        with pytest.raises(InputError, match=f"num_solver_steps={wrong} must be 1 to 1000"):
            image(num_solver_steps=wrong)


def test_the_discrete_u_net_is_guided_too():
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 8}
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16,), num_class_embeds=4, **blocks
    )
    torch.nn.init.normal_(unet.class_embedding.weight, std=3)
    pipeline = sampler(unet, CATS)

    def image(scale):
        generator = torch.Generator().manual_seed(0)
        return pipeline(1, generator, 3, class_labels="cat", guidance_scale=scale, output_type="pt").images

    assert not torch.allclose(image(1), image(4), atol=1e-3)
    with pytest.raises(InputError, match="solver steps are for continuous U-Nets"):
        pipeline(1, num_solver_steps=2)


FACTS = CATS.conditions
NUMBERS = {"cat": 0, "dog": 1, "7": 2, "1": 1, 0: 0, 2: 2, "any": 3, 3: 3}


def test_classes_by_name_and_number():
    assert {label: class_number(label, 4, FACTS) for label in NUMBERS} == NUMBERS
    assert class_number("any", 1, ConditionFacts(("any",))) == 0  # a class of that name
    many = ConditionFacts(tuple(f"name {i}" for i in range(50)))
    with pytest.raises(InputError, match=r"name 19 and 30 more; did you mean name 3\d?\?") as refused:
        class_number("nime 3\n", 50, many)
    assert len(str(refused.value).splitlines()) == 1
    for wrong, message in (("dof", "or one of cat, dog, 7; did you mean dog?"), (4, "0 to 2"), (-1, "0 to 2")):
        with pytest.raises(InputError, match=message.replace("?", r"\?")):
            class_number(wrong, 4, FACTS)


REFUSED = {
    "guidance without classes": ({"num_class_embeds": None}, None, {"guidance_scale": 2}, "was trained without any"),
    "a class without classes": ({"num_class_embeds": None}, None, {"class_labels": "cat"}, "trained without classes"),
    "guidance without a null class": (
        {},
        ConditionFacts(("a", "b", "c", "d")),
        {"class_labels": "a", "guidance_scale": 2},
        "trained without dropping its classes",
    ),
    "no class without a null class": ({}, ConditionFacts(("a", "b", "c", "d")), {}, "or one of a, b, c, d"),
    "guidance towards anything": ({}, FACTS, {"guidance_scale": 2}, "and none was asked for"),
    "a negative scale": ({}, FACTS, {"class_labels": 0, "guidance_scale": -1}, "guidance_scale=-1 must be 0 to 1000"),
    "no interval": (
        {},
        FACTS,
        {"class_labels": 0, "guidance_scale": 2, "guidance_interval": (0.5, 0.5)},
        "guidance_interval=0.5:0.5 must lie in 0:1",
    ),
    "two classes for one image": ({}, FACTS, {"class_labels": ["cat", "dog"]}, "one label or one per image"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_asked_for_is_refused_in_one_line(kind):
    changes, known, request, message = REFUSED[kind]
    pipeline = sampler(conditional(**changes), None if known is None else Facts(conditions=known))
    with pytest.raises(InputError, match=message) as refused:
        pipeline(1, num_inference_steps=2, **request)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("task", ["denoise", "inpaint"])
def test_restoration_takes_a_conditional_model_as_one_of_images_of_any_class(task, tmp_path):
    """It is the same as a model without classes that has the embedding of "any class" built in."""
    unet = conditional()
    plain = conditional(num_class_embeds=None)
    weights = unet.state_dict()
    any_class = weights.pop("class_embedding.weight")[3]
    weights["time_embedding.linear_2.bias"] = weights["time_embedding.linear_2.bias"] + any_class
    plain.load_state_dict(weights)
    results = []
    for name, model, facts in (("conditional", unet, CATS), ("plain", plain, None)):
        sampler(model, facts).save_pretrained(tmp_path / name)
        pipeline, image = load_restorer(tmp_path / name, task), torch.full((1, 1, 8, 8), 0.3)
        hole = torch.zeros(1, 8, 8)
        hole[:, 2:6, 2:6] = 1
        what = {"sigma": 25, "mode": "sample"} if task == "denoise" else {"mask": hole}
        generator = torch.Generator().manual_seed(0)
        if task == "denoise":
            results.append(pipeline(image, sigma=25, output_type="pt").images)
        results.append(pipeline(image, **what, num_inference_steps=20, generator=generator, output_type="pt").images)
    for ours, theirs in zip(results[: len(results) // 2], results[len(results) // 2 :], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def pixels(path):
    return np.asarray(Image.open(path))


def test_the_verb_makes_a_labelled_row_for_each_class(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sampler(conditional(), CATS).save_pretrained("model")
    common = ["--steps", "2", "--device", "cpu"]
    assert main(["sample", "model", "--class", "all", "--num", "3", *common, "-o", "grid.png"]) == 0
    assert main(["sample", "model", "--class", "cat", "dog", "--num", "3", *common, "-o", "many/"]) == 0
    assert (
        main(["sample", "model", "--class-label", "1", "--num", "3", *common, "-o", "one/", "--batch-size", "2"]) == 0
    )
    assert "--class-label is now called --class" in capsys.readouterr().err
    assert len(list((tmp_path / "many").iterdir())) == 6
    # image k of a class has the noise of image k, whatever else is made
    for k in range(3):
        np.testing.assert_allclose(pixels(f"many/{3 + k:04d}.png"), pixels(f"one/{k:04d}.png"), atol=1)
    grid, rows = pixels("grid.png"), load_pipeline("model")
    assert rows.facts == CATS
    assert grid.shape[0] == 3 * (48 + 2) + 2
    label = grid[:, : grid.shape[1] - 3 * 50]
    assert [bool((label[50 * row : 50 * (row + 1)] == 255).any()) for row in range(3)] == [True] * 3
    # without a class, image k shows class k, and then the classes begin again
    assert main(["sample", "model", "--num", "4", *common, "-o", "turns/", "--batch-size", "2"]) == 0
    assert main(["sample", "model", "--class", "all", "--num", "4", *common, "-o", "rows/"]) == 0
    for k, name in enumerate(("cat", "dog", "7", "cat")):
        np.testing.assert_allclose(pixels(f"turns/{k:04d}.png"), pixels(f"rows/{4 * (k % 3) + k:04d}.png"), atol=1)
        assert json.loads(Image.open(f"turns/{k:04d}.png").text["continuous-unet"])["class"] == name
    for words, message in (
        (["--class", "cot"], "class 'cot' is unknown; expected a number from 0 to 2, or one of cat, dog, 7"),
        (["--class", "cat", "--guidance-interval", "0.9:0.1"], "0.2:0.8"),
        (["--class", "any", "--guidance", "2"], "and none was asked for"),
        (["--num", "1" + "0" * 12], "at most 1,000,000 at a time"),
        (["--num", "100000"], "would have 230 million pixels, and at most 100 million are written"),
        (["--given-frames", "2"], "give --first-frames"),
        (["--output", ""], "--output is empty"),
        (["--steps", "2000"], "cannot be used: the model has 1000 timesteps"),
    ):
        assert main(["sample", "model", *common, "-o", "x.png", *words]) == 2
        assert message in capsys.readouterr().err


def test_a_class_of_a_model_without_classes_is_refused(tmp_path, capsys):
    sampler(conditional(num_class_embeds=None)).save_pretrained(tmp_path / "model")
    assert main(["sample", str(tmp_path / "model"), "--class", "cat", "-o", str(tmp_path / "x.png")]) == 2
    assert "was trained without classes; leave --class out" in capsys.readouterr().err


def test_labels_stand_beside_their_rows():
    for channels, mode in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        plain = make_grid(torch.zeros(4, channels, 8, 8), columns=2)
        labelled = make_grid(torch.zeros(4, channels, 8, 8), columns=2, row_labels=["0", "a long name"])
        assert labelled.mode == mode
        assert labelled.height == plain.height
        left = labelled.width - plain.width
        assert np.array_equal(np.asarray(labelled)[:, left:], np.asarray(plain))
        white = np.asarray(labelled.convert("L"))[:, :left] > 200
        assert 0 < white[: plain.height // 2].sum() < white[plain.height // 2 :].sum()
