"""Which classes a class-conditional model is asked for, and how many of its samples show them."""

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from continuous_unet.data import ImageDataset
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline


@dataclass(frozen=True)
class Wanted:
    """How many images of each class are made, in this order."""

    labels: tuple[int | None, ...]
    """The number of each class in the model; one None for a model without classes."""
    bounds: tuple[int, ...]
    """The number of the first image of each class, and of all images."""
    shown: tuple[int, ...] | None
    """The number of each class in the data; None if the data has no such classes."""

    def expected(self) -> Tensor:
        """Returns the class in the data of each image, `(N,)`."""
        assert self.shown is not None
        sizes = [end - start for start, end in pairwise(self.bounds)]
        return torch.tensor(self.shown).repeat_interleave(torch.tensor(sizes))


def wanted_classes(pipeline: DiffusionSamplingPipeline, count: int, real: ImageDataset | None = None) -> Wanted:
    """Returns which classes a number of images is made of.

    They are in proportion to the real images, if those have the same classes: by name where both have names, or as
    many of them. Otherwise every class gets the same number of images.

    Args:
        pipeline: the model.
        count: number of images.
        real: real images with classes, or None.
    """
    known = pipeline.facts.conditions
    rows: int | None = pipeline.unet.config.num_class_embeds
    if rows is None:
        return Wanted((None,), (0, count), None)
    number = rows - (known.null_class is not None)
    labels = tuple(range(number))
    shown = None if real is None else _same_classes(known.classes, number, real.report.class_names)
    if shown is None or real is None or real.source.labels is None:
        return Wanted(labels, tuple(count * k // number for k in range(number + 1)), None)
    found = Counter(real.source.labels[position] for position in real.indices)
    so_far = accumulate((found[label] for label in shown), initial=0)
    return Wanted(labels, tuple(round(count * images / len(real)) for images in so_far), shown)


def _same_classes(names: tuple[str, ...] | None, number: int, real: list[str] | None) -> tuple[int, ...] | None:
    """Returns the number in the data of each class of the model; None if they are not the same classes."""
    if real is None or len(real) != number or number < 2:
        return None
    if names is None:
        return tuple(range(number))
    return tuple(real.index(name) for name in names) if set(names) == set(real) else None
