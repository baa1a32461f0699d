"""The data set that training sees, whatever the source."""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from continuous_unet.data.decode import Unreadable, fit_image, is_grey, normalise_mode, to_array
from continuous_unet.data.sources import Source, open_source
from continuous_unet.errors import InputError
from continuous_unet.randomness import derive_seed

logger = logging.getLogger(__name__)
FITS = ("crop", "pad", "stretch")


@dataclass
class DatasetReport:
    """What was found, what it becomes, and what was left out."""

    source: str
    kind: str
    num_images: int
    image_size: int
    channels: int
    smallest: tuple[int, int]
    """Smallest width and height found, pixels."""
    largest: tuple[int, int]
    class_names: list[str] | None = None
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason of each image that cannot be used."""

    def summary(self) -> str:
        """A few lines to read before training."""
        colour = {1: "grey", 3: "RGB", 4: "RGBA"}[self.channels]
        sizes = f"{self.smallest[0]}x{self.smallest[1]}"
        if self.largest != self.smallest:
            sizes += f" to {self.largest[0]}x{self.largest[1]}"
        lines = [
            f"{self.num_images:,} images from {self.source} ({self.kind}), {sizes} pixels, "
            f"used as {self.image_size}x{self.image_size} {colour}"
        ]
        if self.class_names:
            shown = ", ".join(self.class_names[:10]) + (", …" if len(self.class_names) > 10 else "")
            lines.append(f"{len(self.class_names)} classes: {shown}")
        if self.left_out:
            lines.append(f"left out {len(self.left_out):,}:")
            lines += [f"  {name}: {reason}" for name, reason in self.left_out[:10]]
            if len(self.left_out) > 10:
                lines.append(f"  … and {len(self.left_out) - 10:,} more")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(self.__dict__)


class ImageDataset(Dataset):
    """Images of one source as `{"image": float32 (C, H, W) in [-1, 1], "index": int, "label": int}`.

    Indexed by `index` (as epoch 0) or `(epoch, index)`. An image that turns bad after it was checked is replaced by
    another, chosen by `(seed, index)`, with a warning that names it: the sequence of the others does not change.
    """

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        report: DatasetReport,
        fit: str,
        random_flip: bool,
        random_crop: bool,
        seed: int,
    ) -> None:
        self.source = source
        self.indices = indices
        """Positions in the source of the images used here."""
        self.report = report
        self.fit = fit
        self.random_flip = random_flip
        self.random_crop = random_crop
        self.seed = seed
        self._reported: set[str] = set()

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def num_classes(self) -> int | None:
        """Number of classes, None if the images have none."""
        return None if self.report.class_names is None else len(self.report.class_names)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images")
        index %= len(self)
        image, position = self._load(index)
        rng = np.random.default_rng(derive_seed("augment", self.seed, epoch, index))
        x, y, flip = rng.random(3)
        image = normalise_mode(image, self.report.channels)
        image = fit_image(image, self.report.image_size, self.fit, (x, y) if self.random_crop else (0.5, 0.5))
        values = to_array(image, self.report.channels)
        if self.random_flip and flip < 0.5:
            values = np.ascontiguousarray(values[:, :, ::-1])
        item: dict[str, Any] = {"image": torch.from_numpy(values), "index": index}
        if self.source.labels is not None:
            item["label"] = self.source.labels[position]
        return item

    def _load(self, index: int) -> tuple[Image.Image, int]:
        position = int(self.indices[index])
        for attempt in range(10):
            try:
                return self.source.load(position), position
            except Unreadable as error:
                name = self.source.names[position]
                if name not in self._reported:
                    self._reported.add(name)
                    logger.warning("%s can no longer be read (%s); another image takes its place", name, error)
                position = int(self.indices[derive_seed("substitute", self.seed, index, attempt) % len(self)])
        raise InputError(f"ten images in a row of {self.report.source} can no longer be read; is the disk there?")


def open_dataset(
    source: str | Path,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    split: str = "train",
    fit: str = "crop",
    random_flip: bool = False,
    random_crop: bool = False,
    seed: int = 0,
    on_bad_image: str = "skip",
    max_bad_fraction: float = 0.01,
    progress: bool = True,
) -> ImageDataset:
    """Open images of any kind, after looking at every file.

    Args:
        source: a folder (searched through), a .zip of one, MNIST-style IDX files, a .npz, `hf:NAME_OR_PATH`, or a
            built-in set: `digits` (real, 1,797 handwritten digits) or `shapes` (drawn).
        image_size: side in pixels; if None, the images' own, which must then be one and square.
        channels: 1, 3 or 4; if None, 1 where all images are grey and 3 otherwise.
        split: `"train"` or `"test"`, for sources that have both.
        fit: how images become square: `"crop"`, `"pad"` or `"stretch"` (see `decode.fit_image`).
        random_flip: mirror half of the images.
        random_crop: crop at random instead of in the middle (with `fit="crop"`).
        seed: of the augmentation.
        on_bad_image: `"skip"` leaves unreadable files out and names them; `"error"` stops at the first.
        max_bad_fraction: with `"skip"`, stop all the same if more than this part of the files is unreadable.
        progress: show a bar while files are checked.

    Raises:
        InputError: if there is nothing to use, too much is damaged, or an argument is wrong.
    """
    _check_arguments(image_size, channels, split, fit, on_bad_image)
    opened = open_source(str(source), split)
    facts = _look_at_all(opened, str(source), on_bad_image, progress)
    good = [i for i, fact in enumerate(facts) if not isinstance(fact, str)]
    left_out = [(opened.names[i], fact) for i, fact in enumerate(facts) if isinstance(fact, str)]
    if not good:
        first = f" ({left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise InputError(f"{source} holds no image that can be used{first}")
    if len(left_out) > max_bad_fraction * len(facts) and len(left_out) > 1:
        named = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
        raise InputError(
            f"{len(left_out)} of {len(facts)} files in {source} cannot be read ({named}); mend or remove them, or "
            "raise max_bad_fraction"
        )
    found = [fact for fact in facts if not isinstance(fact, str)]
    sizes = [(width, height) for width, height, _ in found]
    smallest = min(w for w, _ in sizes), min(h for _, h in sizes)
    largest = max(w for w, _ in sizes), max(h for _, h in sizes)
    if image_size is None:
        if smallest != largest or smallest[0] != smallest[1]:
            raise InputError(
                f"the images of {source} are {smallest[0]}x{smallest[1]} to {largest[0]}x{largest[1]} pixels, not all "
                "of one square size; say which size to use (--image-size)"
            )
        image_size = smallest[0]
    report = DatasetReport(
        source=str(source),
        kind=opened.kind,
        num_images=len(good),
        image_size=image_size,
        channels=channels or (1 if all(grey for _, _, grey in found) else 3),
        smallest=smallest,
        largest=largest,
        class_names=opened.class_names or _numbered_classes(opened.labels),
        left_out=left_out,
    )
    return ImageDataset(opened, np.asarray(good), report, fit, random_flip, random_crop, seed)


def train_validation_split(
    dataset: ImageDataset, num_validation: int, seed: int = 0
) -> tuple[ImageDataset, ImageDataset]:
    """Hold images out, chosen at random by the seed; the held-out part is not augmented.

    Raises:
        InputError: if nothing would be left to train on.
    """
    if not 0 <= num_validation < len(dataset):
        raise InputError(f"{num_validation} validation images were asked for, and {len(dataset)} images are there")
    order = np.random.default_rng(derive_seed("validation", seed)).permutation(len(dataset))
    parts = []
    for chosen, augmented in ((order[num_validation:], True), (order[:num_validation], False)):
        indices = dataset.indices[np.sort(chosen)]
        parts.append(
            ImageDataset(
                dataset.source,
                indices,
                replace(dataset.report, num_images=len(indices)),
                dataset.fit,
                dataset.random_flip and augmented,
                dataset.random_crop and augmented,
                dataset.seed,
            )
        )
    return parts[0], parts[1]


def _numbered_classes(labels: list[int] | None) -> list[str] | None:
    if labels is None:
        return None
    if min(labels) < 0:
        raise InputError(f"labels must be 0 or more, got {min(labels)}")
    return [str(i) for i in range(max(labels) + 1)]


def _look_at_all(source: Source, name: str, on_bad_image: str, progress: bool) -> list[tuple[int, int, bool] | str]:
    """Per image, width, height and whether it is grey; or why it cannot be used."""
    if not source.files:
        # arrays share one shape; a hub set was checked when it was made, and a bad entry is replaced when met
        try:
            image = source.load(0) if len(source) else None
        except Unreadable as error:
            raise InputError(f"{source.names[0]} cannot be read: {error}") from error
        return [] if image is None else [(*image.size, is_grey(image))] * len(source)

    def look(index: int) -> tuple[int, int, bool] | str:
        try:
            image = source.load(index)
            return (*image.size, is_grey(image))
        except Unreadable as error:
            if on_bad_image == "error":
                raise InputError(f"{source.names[index]} in {name} cannot be used: {error}") from error
            return str(error)

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # what Pillow warns of is in the reasons
        bar = tqdm(
            pool.map(look, range(len(source))), "checking images", len(source), leave=False, disable=not progress
        )
        return list(bar)


def _check_arguments(image_size: int | None, channels: int | None, split: str, fit: str, on_bad_image: str) -> None:
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size={image_size} must be at least 1")
    if channels not in (None, 1, 3, 4):
        raise InputError(f"channels={channels} must be 1 (grey), 3 (RGB) or 4 (RGBA)")
    for name, value, allowed in (
        ("split", split, ("train", "test")),
        ("fit", fit, FITS),
        ("on_bad_image", on_bad_image, ("skip", "error")),
    ):
        if value not in allowed:
            raise InputError(f"{name}={value!r} must be one of {', '.join(allowed)}")
