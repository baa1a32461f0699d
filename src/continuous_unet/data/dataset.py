"""The data set that training sees, whatever the source."""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from continuous_unet.base.errors import InputError
from continuous_unet.base.randomness import derive_seed
from continuous_unet.data.loading import TrainingData, first_batch
from continuous_unet.data.order import EpochSampler
from continuous_unet.data.report import DatasetReport
from continuous_unet.data.sources import Source, open_source
from continuous_unet.images.decode import Unreadable, fit_image, is_grey, normalise_mode, to_array

logger = logging.getLogger(__name__)
FITS = ("crop", "pad", "stretch", "patch")


@dataclass(frozen=True)
class Preparation:
    """From a decoded image to what the model sees."""

    image_size: int
    channels: int
    fit: str = "crop"
    random_flip: bool = False
    random_crop: bool = False

    def __call__(self, image: Image.Image, seed: int) -> torch.Tensor:
        """To float32 `(C, H, W)` in [-1, 1]; crop and flip are drawn from the seed alone."""
        x, y, flip = np.random.default_rng(seed).random(3)
        image = normalise_mode(image, self.channels)
        image = fit_image(image, self.image_size, self.fit, (x, y) if self.random_crop else (0.5, 0.5))
        values = to_array(image, self.channels)
        if self.random_flip and flip < 0.5:
            values = np.ascontiguousarray(values[:, :, ::-1])
        return torch.from_numpy(values)


class ImageDataset(TrainingData, Dataset):
    """Images of one source, as the package describes.

    Indexed by `index` (as epoch 0) or `(epoch, index)`. An image that turns bad after it was checked is replaced by
    another, chosen by `(seed, index)`, with a warning that names it, and `unreadable` says so: the sequence of the
    others does not change.
    """

    resume_promise = "exact on a CPU with as many processes"

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        report: DatasetReport,
        preparation: Preparation,
        seed: int,
    ) -> None:
        self.source = source
        self.indices = indices
        """Positions in the source of the images used here."""
        self.report = report
        self.preparation = preparation
        self.seed = seed
        self._reported: set[str] = set()

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def file_names(self) -> list[str] | None:
        """The names of all image files of the source, which `open_dataset(names=...)` takes; None if not files."""
        return self.source.names if self.source.files else None

    @property
    def num_classes(self) -> int | None:
        """The number of classes, or None if the images have none."""
        return None if self.report.class_names is None else len(self.report.class_names)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images")
        index %= len(self)
        image, position, unreadable = self._load(index)
        values = self.preparation(image, derive_seed("augment", self.seed, epoch, index))
        item: dict[str, Any] = {"image": values, "index": index, "unreadable": unreadable}
        if self.source.labels is not None:
            item["label"] = self.source.labels[position]
        return item

    def name_of(self, index: int) -> str:
        """Returns the name of the image at an index, for messages."""
        return self.source.names[self.indices[index]]

    def _reader(
        self, batch_size: int, start: int, rank: int, world_size: int, seed: int
    ) -> tuple[Dataset, dict[str, Any]]:
        first = first_batch(start, batch_size, world_size)
        return self, {"batch_sampler": EpochSampler(len(self), batch_size, seed, first, rank, world_size)}

    def _load(self, index: int) -> tuple[Image.Image, int, bool]:
        """The image, its position in the source, and whether it stands in for one that cannot be read."""
        position = int(self.indices[index])
        for attempt in range(10):
            try:
                return self.source.load(position), position, attempt > 0
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
    max_bad_images: float = 0.01,
    names: list[str] | None = None,
    progress: bool = True,
) -> ImageDataset:
    """Open images of any kind, after looking at every file.

    Args:
        source: a folder (searched through), a .zip of one, MNIST-style IDX files, a .npz, `hf:NAME_OR_PATH`, or a
            built-in set: `digits` (real, 1,797 handwritten digits) or `shapes` (drawn).
        image_size: side in pixels; if None, the images' own, which must then be one and square.
        channels: 1, 3 or 4; if None, 1 where all images are grey and 3 otherwise.
        split: `"train"` or `"test"`, for sources that have both.
        fit: how images become square: `"crop"`, `"pad"`, `"stretch"` or `"patch"` (see `decode.fit_image`).
        random_flip: mirror half of the images.
        random_crop: crop at random instead of in the middle (with `fit="crop"` and `fit="patch"`).
        seed: of the augmentation.
        on_bad_image: `"skip"` leaves unreadable files out and names them; `"error"` stops at the first.
        max_bad_images: with `"skip"`, stop all the same if more than this share of the images cannot be used; one
            always may.
        names: of the image files to use, rather than all that are there, as a run recorded them (`file_names`). Those
            that cannot be read any more keep their place in the order, and others are used instead.
        progress: show a bar while files are checked.

    Raises:
        InputError: if there is nothing to use, too much is damaged, or an argument is wrong.
    """
    _check_arguments(image_size, channels, split, fit, on_bad_image)
    opened = open_source(str(source), split)
    if opened.unreadable_folders:
        name, reason = opened.unreadable_folders[0]
        raise InputError(f"the folder {name} in {source} cannot be searched: {reason}")
    if names is not None and opened.files:
        opened.set_names(names, str(source))  # type: ignore[attr-defined]
    facts = _look_at(opened, progress, everything=opened.files)
    left_out = [(name, fact) for name, fact in zip(opened.names, facts) if isinstance(fact, str)]
    if left_out and on_bad_image == "error":
        raise InputError(f"{left_out[0][0]} in {source} cannot be used: {left_out[0][1]}")
    if len(left_out) == len(facts):
        first = f" ({left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise InputError(f"{source} holds no image that can be used{first}")
    if too_many_bad(len(left_out), len(facts), max_bad_images):
        named = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
        raise InputError(
            f"{len(left_out)} of {len(facts)} images in {source} cannot be used ({named}); see `cunet data check`, "
            "mend or remove them, or raise max_bad_images"
        )
    if left_out and names is None:
        bad = {name for name, _ in left_out}
        opened.set_names([name for name in opened.names if name not in bad], str(source))  # type: ignore[attr-defined]
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
        num_images=len(opened),
        image_size=image_size,
        channels=channels or (1 if all(grey for _, _, grey in found) else 3),
        smallest=smallest,
        largest=largest,
        class_names=opened.class_names or _numbered_classes(opened.labels),
        left_out=left_out,
    )
    preparation = Preparation(report.image_size, report.channels, fit, random_flip, random_crop)
    return ImageDataset(opened, np.arange(len(opened)), report, preparation, seed)


def too_many_bad(bad: int, images: int, max_bad_images: float) -> bool:
    """Whether more than a share of the images cannot be used. One always may: it says nothing about the others."""
    return bad > max(1, max_bad_images * images)


@dataclass
class DataCheck:
    """What `check_data` found."""

    source: str
    kind: str
    num_images: int
    """Of those that can be used."""
    smallest: tuple[int, int] | None
    """Smallest width and height found, pixels; None if there is none."""
    largest: tuple[int, int] | None
    class_names: list[str] | None
    unusable: list[tuple[str, str]]
    """Name and reason of each image and folder that cannot be used."""
    not_searched: list[tuple[str, str]]
    """Name and reason of each folder that was left out on purpose."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        named = {k: [{"name": n, "reason": r} for n, r in getattr(self, k)] for k in ("unusable", "not_searched")}
        return {**self.__dict__, **named}

    def to_text(self) -> str:
        """A line per image that cannot be used, and a line in the end."""
        lines = [f"{name}: {reason}" for name, reason in (*self.unusable, *self.not_searched)]
        sizes = "" if self.smallest is None or self.largest is None else (
            f", {self.smallest[0]}x{self.smallest[1]} to {self.largest[0]}x{self.largest[1]} pixels"
        )  # fmt: skip
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        lines.append(
            f"{self.source} ({self.kind}): {self.num_images:,} images can be used{sizes}{classes}; "
            f"{len(self.unusable):,} cannot"
        )
        return "\n".join(lines)


def check_data(source: str | Path, *, split: str = "train", progress: bool = True) -> DataCheck:
    """Decode every image of a source, as training would, and tell which cannot be used and why.

    Args:
        source: as of `open_dataset`.
        split: `"train"` or `"test"`.
        progress: show a bar.

    Raises:
        InputError: if there is nothing to look at.
    """
    opened = open_source(str(source), split)
    facts = _look_at(opened, progress, everything=True)
    sizes = [fact[:2] for fact in facts if not isinstance(fact, str)]
    bad = [(name, fact) for name, fact in zip(opened.names, facts) if isinstance(fact, str)]
    return DataCheck(
        source=str(source),
        kind=opened.kind,
        num_images=len(sizes),
        smallest=(min(w for w, _ in sizes), min(h for _, h in sizes)) if sizes else None,
        largest=(max(w for w, _ in sizes), max(h for _, h in sizes)) if sizes else None,
        class_names=opened.class_names or _numbered_classes(opened.labels),
        unusable=[*bad, *opened.unreadable_folders],
        not_searched=list(opened.not_searched),
    )


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
                dataset.preparation
                if augmented
                else replace(dataset.preparation, random_flip=False, random_crop=False),
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


def _look_at(source: Source, progress: bool, everything: bool) -> list[tuple[int, int, bool] | str]:
    """Per image, width, height and whether it is grey; or why it cannot be used.

    Not everything need be looked at where images are no files: arrays share one shape, and a hub set was checked when
    it was made.
    """

    def look(index: int) -> tuple[int, int, bool] | str:
        try:
            image = source.load(index)
            return (*image.size, is_grey(image))
        except Unreadable as error:
            return str(error)

    if not everything:
        first = look(0) if len(source) else ""
        if isinstance(first, str):
            raise InputError(f"{source.names[0]} cannot be read: {first}" if first else f"{source.kind} holds no image")
        return [first] * len(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is in the reasons
        pool = ThreadPoolExecutor()
        try:
            looked = pool.map(look, range(len(source)))
            return list(tqdm(looked, "checking images", len(source), leave=False, disable=not progress))
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C need not wait for the rest


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
