"""Images that a trained model is measured on, noised as in training, to calibrate int8 and to rank channels."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import read_layer
from continuous_unet.base.randomness import derive_seed
from continuous_unet.data import ImageDataset, open_dataset
from continuous_unet.diffusion.draws import Stream, normal
from continuous_unet.diffusion.process import Process
from continuous_unet.tasks.facts import ConditionFacts
from continuous_unet.tasks.network import Network
from continuous_unet.tasks.packaged import find_model, is_model
from continuous_unet.tasks.registry import TASKS
from continuous_unet.training.config import TrainConfig, recorded

FEWEST_IMAGES = 32
"""With fewer, ranges and rankings would follow single images."""


NOTHING_KNOWN = ConditionFacts()


@dataclass(frozen=True)
class Origin:
    """How a model was trained, as far as that is known."""

    config: TrainConfig = field(default_factory=TrainConfig)
    """The configuration of its run; the defaults if the run is unknown."""
    smallest_image: int | None = None
    """The smallest side in pixels of the images that it was trained on, before they were cut to size."""


def origin(model: str | os.PathLike) -> Origin:
    """Returns how the model of a run, of `cunet prune` or of the package was trained, as far as that was saved.

    Nothing is known of a model that is in memory alone.
    """
    found = find_model(model) if is_model(model) else Path(model)
    for folder in (found, found / "finetuning"):
        if (folder / "config.yaml").is_file():
            try:
                data = json.loads((folder / "run.json").read_text(encoding="utf-8"))["data"]
                smallest = min(int(side) for side in data["smallest"])
            except (OSError, ValueError, KeyError, TypeError):
                smallest = None
            return Origin(recorded(read_layer(TrainConfig, folder / "config.yaml")), smallest)
    return Origin()


def open_for(
    unet: Network,
    data: str,
    known: Origin,
    option: str = "--data",
    size: tuple[int, int] | None = None,
    conditions: ConditionFacts = NOTHING_KNOWN,
) -> ImageDataset:
    """Opens images as a model takes them, without augmentation.

    Args:
        unet: the model, whose channels and size the images must have.
        data: what `open_dataset` takes.
        known: how the model was trained, and thus how images are cut to size.
        option: the name of the option that named the data, for errors.
        size: height and width in pixels, if not those of the model's `sample_size`.
        conditions: what is known of the model's classes.

    Raises:
        InputError: for images of other channels, too small or too few images, or without the classes of the model.
    """
    wanted = unet.config.sample_size if size is None else size
    sides = {wanted} if isinstance(wanted, int) else set(wanted or ())
    if len(sides) != 1:
        raise InputError(
            f"{option}: the model takes images of the size {wanted}, and data is read as squares of one size; this "
            "needs a model whose configuration has a square sample_size"
        )
    (side,) = sides
    fit = known.config.data.fit or TASKS[known.config.task.name].load_task().fit
    dataset = open_dataset(data, image_size=side, fit=fit, seed=known.config.seed, progress=False)
    report = dataset.report
    if report.channels != unet.config.in_channels:
        raise InputError(
            f"{option} {data}: the images have {report.channels} channels and the model takes "
            f"{unet.config.in_channels}; give images of the kind that it was trained on"
        )
    smallest = side if known.smallest_image is None else min(side, known.smallest_image)
    if min(report.smallest) < smallest:
        raise InputError(
            f"{option} {data}: images of {report.smallest[0]}x{report.smallest[1]} pixels are smaller than any that "
            f"the model was trained on ({smallest}x{smallest}); give larger ones, because enlarging them would mislead"
        )
    if len(dataset) < FEWEST_IMAGES:
        raise InputError(f"{option} {data}: {len(dataset)} images are too few; at least {FEWEST_IMAGES} are needed")
    rows = unet.config.num_class_embeds
    classes = None if rows is None else rows - (conditions.null_class is not None)
    if classes is not None and dataset.num_classes != classes:
        raise InputError(
            f"{option} {data}: the model has {classes} classes and the images {dataset.num_classes or 'none'}; give "
            "images with the classes that it was trained with"
        )
    if conditions.classes is not None and list(conditions.classes) != report.class_names:
        raise InputError(
            f"{option} {data}: the classes have other names than those that the model was trained with; name their "
            "folders as in its training"
        )
    return dataset


def noised_images(
    dataset: ImageDataset, process: Process, count: int, *, with_labels: bool, seed: int = 0
) -> dict[str, Tensor]:
    """Returns training images, each noised to a different time: what a model sees while it is trained.

    Args:
        dataset: images of the model's kind; all are used if there are fewer than `count`.
        process: the noise process.
        count: the number of images, drawn at random by the seed.
        with_labels: whether the classes are returned, too.
        seed: sets the choice and the noise.

    Returns:
        `clean` and `noise` `(B, C, H, W)`, `timestep` `(B,)`, spread evenly over the whole range, `sample`
        `(B, C, H, W)`, the noisy images, and `class_labels` `(B,)`.
    """
    generator = torch.Generator().manual_seed(derive_seed("calibration", seed))
    items = [dataset[index] for index in torch.randperm(len(dataset), generator=generator)[:count].tolist()]
    numbers = range(len(items))
    clean = torch.stack([item["image"] for item in items])
    noise, times = normal(seed, Stream.CALIBRATION, numbers, clean.shape[1:]), process.spread_times(numbers)
    batch = {"clean": clean, "noise": noise, "timestep": times, "sample": process.add_noise(clean, noise, times).x_t}
    if with_labels:
        batch["class_labels"] = torch.tensor([item["label"] for item in items])
    return batch
