"""Looks at every image of a source before it is used: its size, its colour, and the range of its values."""

import warnings
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from continuous_unet.base.errors import InputError
from continuous_unet.base.signals import StopRequest
from continuous_unet.data.preparation import deep_type
from continuous_unet.data.report import DeepImages, ImageFacts
from continuous_unet.data.sources import Source
from continuous_unet.images.decode import Unreadable, is_grey, range_of_values

_KINDS = {"I;16": "16-bit grey", "I": "32-bit grey", "F": "float"}


@dataclass(frozen=True)
class Look:
    """The facts about one image."""

    name: str
    size: tuple[int, int]
    """Width and height in pixels."""
    grey: bool
    deep: str | None = None
    """`deep_type` of the image."""
    smallest: float = 0.0
    largest: float = 0.0
    """The range of its values, if it is deep."""
    loses_depth: bool = False
    """Whether 8 bits of 16 per channel are read."""


def look_at(
    source: Source, progress: bool, stop: StopRequest | None = None
) -> tuple[dict[int, Look], list[tuple[str, str]]]:
    """Decodes every image, or one where all are known to be alike.

    Returns:
        What each usable image is like, by its position in the source; and name and reason of each of the others.

    Raises:
        InputError: if there is no image.
        Stopped: if a signal arrives.
    """

    def look(index: int) -> Look | str:
        try:
            image = source.load(index)
        except Unreadable as error:
            return str(error)
        deep = deep_type(image)
        values = np.asarray(image) if deep is not None and image.width and image.height else np.zeros(1)
        low, high = float(values.min()), float(values.max())
        lost = bool(image.info.get("loses_depth"))
        return Look(source.names[index], image.size, is_grey(image), deep, low, high, lost)

    if not len(source):
        raise InputError(f"{source.kind} holds no image")
    looks: list[Look | str] = []
    if source.alike:
        looks = [look(0)] * len(source)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is in the reasons
            pool = ThreadPoolExecutor()
            try:
                found = pool.map(look, range(len(source)))
                for fact in tqdm(found, "checking images", len(source), leave=False, disable=not progress):
                    looks.append(fact)
                    if stop is not None:
                        stop.check()
            finally:
                pool.shutdown(cancel_futures=True)  # Ctrl-C need not wait for the rest
    usable = {i: fact for i, fact in enumerate(looks) if isinstance(fact, Look)}
    return usable, [(source.names[i], fact) for i, fact in enumerate(looks) if isinstance(fact, str)]


def describe(
    name: str, source: Source, looks: Collection[Look], chosen: tuple[float, float] | None
) -> tuple[ImageFacts, str | None]:
    """Returns what is known of the usable images, and why the values of some cannot be read without a choice, if so.

    Args:
        name: what the source was opened with.
        source: opened, with the usable images alone.
        looks: the facts about each of them.
        chosen: black and white of high-depth images, if they are chosen.
    """
    deep, problem = (source.deep, None) if source.deep is not None else read_ranges(looks, chosen)
    classes = source.class_names
    if classes is None and source.labels:  # numbers where they have no names
        classes = [str(i) for i in range(max(source.labels) + 1)]
    widths, heights = [look.size[0] for look in looks], [look.size[1] for look in looks]
    facts = ImageFacts(
        source=name,
        kind=source.kind,
        num_images=len(looks),
        smallest=(min(widths), min(heights)) if looks else None,
        largest=(max(widths), max(heights)) if looks else None,
        channels=(1 if all(look.grey for look in looks) else 3) if looks else None,
        class_names=classes,
        why_no_classes=source.why_no_classes,
        deep=list(deep),
        lost_depth=sum(look.loses_depth for look in looks),
        left_aside=dict(source.left_aside),
    )
    return facts, problem


def read_ranges(looks: Collection[Look], chosen: tuple[float, float] | None) -> tuple[list[DeepImages], str | None]:
    """Decides how the values of high-depth images are read: once for all images of a type.

    Args:
        looks: the facts about all images of a data set.
        chosen: black and white, if they are chosen.

    Returns:
        The decisions, and None; or why the values of some images cannot be read without a choice.
    """
    decided, problems = [], []
    for deep, kind in _KINDS.items():
        same = [look for look in looks if look.deep == deep]
        if not same:
            continue
        low, high = min(same, key=lambda look: look.smallest), max(same, key=lambda look: look.largest)
        black, white, certain = range_of_values(deep, low.smallest, high.largest)
        if chosen is None and not certain:
            problems.append(
                f"the values of its {kind} images lie between {low.smallest:g} ({low.name}) and {high.largest:g} "
                f"({high.name}), which is no usual range; say which values are black and white, for example "
                f"--value-range {low.smallest:g}:{high.largest:g}"
            )
        black, white = chosen or (black, white)
        decided.append(DeepImages(kind, len(same), low.smallest, high.largest, black, white))
    return decided, "; ".join(problems) or None


def values_by_type(deep: Sequence[DeepImages]) -> dict[str, tuple[float, float]]:
    """Returns black and white by `deep_type`."""
    return {kind: (images.black, images.white) for images in deep for kind in _KINDS if _KINDS[kind] == images.kind}
