"""The pictures of the README and the docs that models of the package can make (`make pictures`).

    python benchmarks/pictures.py                      # all, to docs/images
    python benchmarks/pictures.py denoised upscaled    # some

A picture whose models the package does not have is left out, and named. The photograph is `chelsea` of scikit-image, by
Stéfan van der Walt (CC0). The photographs with noise of their own are its `coins` (Greek coins from Pompeii, Brooklyn
Museum Collection) and `hubble_deep_field` (NASA, public domain).
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from continuous_unet.cli.main import main as cunet
from continuous_unet.images.decode import to_array
from continuous_unet.images.grids import make_grid, write_png
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline, choose_sampler, generate
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.tasks.packaged import pretrained_models

IMAGES = Path(__file__).parents[1] / "docs" / "images"
STEPS = 20
"""Number of sampling steps of all pictures."""
SHOWN = (1, 3, 5, 8, 11, 14, 17, 20)
"""The numbers of sampling steps after which the strip shows the image."""
STEPS_BESIDE = (1, 2, 4, 50)
"""The numbers of steps of a teacher beside its student, which has some of them."""
SIGMA = 25
"""The standard deviation of the noise of the photograph, on the 0-255 scale."""
CROP = (118, 20, 374, 276)
"""What is shown of the photograph: left, top, right and bottom in pixels."""
DETAIL = (13, 45, 109, 141)
"""What is shown of that, enlarged three times, beside pictures of pixels."""


@dataclass(frozen=True)
class Picture:
    """A picture of the docs."""

    models: tuple[str, ...]
    """The models of the package that it needs."""
    make: Callable[[], Image.Image]


def quiet(name: str) -> tuple[DiffusionSamplingPipeline, int]:
    """Returns a model of the package with its sampler, and the number of steps that it takes."""
    pipeline = load_pipeline(name)
    pipeline.set_progress_bar_config(disable=True)
    sampler = pipeline.facts.sampler
    return pipeline, choose_sampler(pipeline, None, None if sampler is not None and sampler.distilled else STEPS)


def by_class(name: str, columns: int = 8, seed: int = 0) -> Image.Image:
    """Returns samples of each class of a model, a labelled row for each."""
    pipeline, steps = quiet(name)
    classes = list(pipeline.facts.conditions.classes or ())
    how = {"seed": seed, "num_inference_steps": steps}  # and the guidance scale that the model is saved with
    rows = [batch for label in classes for batch in generate(pipeline, columns, class_label=label, **how)]
    return make_grid(torch.cat(rows), columns=columns, row_labels=classes)


def from_noise(name: str, rows: int = 5, seed: int = 0) -> Image.Image:
    """Returns what a model makes of noise, step by step: a row for each of some classes."""
    pipeline, steps = quiet(name)
    classes = list(pipeline.facts.conditions.classes or ())
    chosen = [classes[k * len(classes) // rows] for k in range(rows)]
    strips = [torch.cat(states(pipeline, label, steps, seed)) for label in chosen]
    return make_grid(torch.cat(strips), columns=len(strips[0]), row_labels=chosen)


def states(pipeline: DiffusionSamplingPipeline, label: str, steps: int, seed: int) -> list[Tensor]:
    """Returns the state of the sampler in [0, 1] after some numbers of steps, from noise to the image."""
    seen: list[Tensor] = []

    def look(pipeline: object, number: int, timestep: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tensors["latents"])
        return {}

    how = {"seed": seed, "num_inference_steps": steps, "class_label": label}
    (image,) = generate(pipeline, 1, callback_on_step_end=look, **how)
    # before the last step the state holds noise, whose values go beyond those of images
    kept = [seen[min(number, steps) - 1] for number in SHOWN[:-1]]
    return [*((state / 2 + 0.5).clamp(0, 1) for state in kept), image]


def few_steps(models: Mapping[str, str], columns: int, scheduler: str = "dpm++") -> Image.Image:
    """Returns images of the same seeds by teachers and students: a labelled row for each number of steps.

    Args:
        models: the label and the model of each. With guidance of its own, a step of a model takes two evaluations.
        columns: number of images in a row, of all classes in turn.
        scheduler: sampler of the teachers.
    """
    rows, labels = [], []
    for label, model in models.items():
        own = load_pipeline(model).facts.sampler
        distilled = own is not None and own.distilled
        for steps in [n for n in STEPS_BESIDE if n in own.numbers] if own is not None and distilled else STEPS_BESIDE:
            pipeline, _ = quiet(model)
            choose_sampler(pipeline, None if distilled else scheduler, steps)
            classes = len(pipeline.facts.conditions.classes or ()) or pipeline.unet.config.num_class_embeds
            asked = None if classes is None else [k % classes for k in range(columns)]
            rows += generate(pipeline, columns, seed=1, num_inference_steps=steps, class_label=asked)
            labels.append(f"{label}, {steps}")
    return make_grid(torch.cat(rows), columns=columns, row_labels=labels)


def beside_student(name: str, columns: int) -> Picture:
    """Returns the picture of a model of the package beside its student."""
    models = name, f"{name}-distilled"
    return Picture(models, lambda: few_steps({model: model for model in models}, columns))


def photograph() -> Image.Image:
    """Returns the photograph of a cat that scikit-image comes with."""
    from skimage import data

    return Image.fromarray(data.chelsea()).crop(CROP)


def denoised() -> Image.Image:
    """Returns a noisy photograph, what `cunet denoise` makes of it, and the photograph."""
    clean = photograph()
    values = np.asarray(clean, np.float32) + np.random.default_rng(0).normal(0, SIGMA, np.asarray(clean).shape)
    noisy = Image.fromarray(np.clip(values.round(), 0, 255).astype(np.uint8))
    return beside([noisy, restored(noisy, "denoise"), clean])


def real_noise() -> Image.Image:
    """Returns details of two photographs with noise of their own, each beside what `cunet denoise` makes of it."""
    from skimage import data

    pairs = []
    for photo, place in ((data.coins(), (20, 20)), (data.hubble_deep_field(), (300, 300))):
        before = Image.fromarray(photo)
        box = (*place, place[0] + 96, place[1] + 96)
        pairs += [image.convert("RGB").crop(box) for image in (before, restored(before, "denoise"))]
    return beside(pairs, scale=3)


def upscaled() -> Image.Image:
    """Returns a detail of a small photograph, of what `cunet upscale` makes of it, and of the photograph."""
    clean = photograph()
    small = clean.resize((clean.width // 2, clean.height // 2), Image.Resampling.BICUBIC)
    interpolated = small.resize(clean.size, Image.Resampling.BICUBIC)
    shown = [interpolated, restored(small, "upscale"), clean]
    return beside([image.crop(DETAIL) for image in shown], scale=3)


def restored(image: Image.Image, verb: str) -> Image.Image:
    """Returns what a verb makes of an image with the model of the package."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.png", Path(folder) / "after.png"
        image.save(before)
        if cunet([verb, str(before), "--output", str(after)]) != 0:
            raise SystemExit(f"cunet {verb} failed")
        return Image.open(after).convert("RGB")


def beside(images: list[Image.Image], scale: int = 1) -> Image.Image:
    """Returns images of one size side by side."""
    return make_grid(
        torch.stack([torch.from_numpy(to_array(i, 3) / 2 + 0.5) for i in images]), len(images), scale=scale
    )


PICTURES = {
    "pictograms": Picture(("pictograms",), lambda: by_class("pictograms")),
    "pictograms-from-noise": Picture(("pictograms",), lambda: from_noise("pictograms")),
    "digits-by-class": Picture(("digits",), lambda: by_class("digits")),
    "digits-from-noise": Picture(("digits",), lambda: from_noise("digits")),
    "few-steps": beside_student("digits", 10),
    "few-steps-pictograms": beside_student("pictograms", 12),
    "denoised": Picture(("denoise-colour",), denoised),
    "real-noise": Picture(("denoise-grey", "denoise-colour"), real_noise),
    "upscaled": Picture(("upscale-x2",), upscaled),
}
"""The pictures, by the name of their file."""


def make(names: list[str], folder: Path) -> None:
    """Makes some pictures, or says which models are missing."""
    known = pretrained_models()
    for name in names:
        picture = PICTURES[name]
        missing = [model for model in picture.models if model not in known]
        if missing:
            print(f"{name}: left out, because the package has no model {', '.join(missing)}")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        write_png(picture.make(), folder / f"{name}.png")
        print(folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(PICTURES)} (default: all)")
    parser.add_argument("--output", type=Path, default=IMAGES, help="folder of the pictures")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in PICTURES]
    if unknown:
        parser.error(f"{unknown[0]} is no picture; expected one of {', '.join(PICTURES)}")
    make(given.names or list(PICTURES), given.output)


if __name__ == "__main__":
    main()
