"""The data set that training reads, whatever its source."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from continuous_unet.base.errors import InputError
from continuous_unet.base.randomness import derive_seed
from continuous_unet.data.loading import Item, TrainingData
from continuous_unet.data.looking import describe, look_at, values_by_type
from continuous_unet.data.memory import KeptImages, obstacle
from continuous_unet.data.options import CAPTIONS, FITS, SPLITS, parse_image_size, parse_value_range
from continuous_unet.data.order import EpochSampler, hold_out
from continuous_unet.data.preparation import Preparation
from continuous_unet.data.report import CaptionFacts, DatasetReport
from continuous_unet.data.sources import Reading, Source, open_source
from continuous_unet.images.decode import Unreadable

logger = logging.getLogger(__name__)


class Stored(Protocol):
    """Values of all images of a source that were made before, such as latents."""

    shape: tuple[int, int, int]
    """Channels, height and width of the values of an image."""

    def __call__(self, position: int, mirrored: bool, /) -> Tensor:
        """Returns the values of the image at a position of the source, float32, or those of the mirrored image."""


@dataclass(eq=False)
class ImageDataset(TrainingData, Dataset):
    """The images of one source, indexed by `index` (as epoch 0) or `(epoch, index)`; see the package for the items.

    An image that becomes unreadable after it was checked is replaced by another, chosen by `(seed, index)`. A warning
    names it, and the item's `unreadable` is True. The sequence of the others does not change.
    """

    resume_promise = "exact on a CPU with the same number of processes"
    source: Source
    indices: np.ndarray
    """The positions in the source of the images that are used here."""
    report: DatasetReport
    preparation: Preparation
    seed: int
    tokens: Mapping[str, Tensor] = field(default_factory=dict)
    """What each item has besides, such as the tokens of its caption: tensors `(N, …)`, a row per image of `source`."""
    stored: Stored | None = None
    """Gives what a model sees of each image, where that was made from the image before."""
    _reported: set[str] = field(default_factory=set, init=False)
    """Names of images that have become unreadable, once a warning has named them."""

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, ...]:
        return super().shape if self.stored is None else self.stored.shape

    @property
    def file_names(self) -> list[str] | None:
        return self.source.names if self.source.files else None

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images")
        index %= len(self)
        seed = derive_seed("augment", self.seed, epoch, index)
        if self.stored is None:
            image, position, unreadable = self.read(index)
            values = self.preparation(image, seed)
        else:
            position, unreadable = int(self.indices[index]), False
            values = self.stored(position, self.preparation.mirrors(seed))
        return {"image": values, "index": index, "unreadable": unreadable, **self.about(position)}

    def about(self, position: int) -> Item:
        """Returns what an item has besides its image, by the position of the image in the source."""
        label = {} if self.source.labels is None else {"label": self.source.labels[position]}
        return {**label, **{name: rows[position] for name, rows in self.tokens.items()}}

    @property
    def captions(self) -> list[str] | None:
        captions = self.source.captions
        return None if captions is None else [captions[i] for i in self.indices]

    def with_tokens(self, tokenise: Callable[[Sequence[str]], Mapping[str, Tensor]]) -> "ImageDataset":
        """Returns this data set with the tokens of the captions in its items.

        Args:
            tokenise: returns tensors `(N, …)`, a row for each caption.
        """
        assert self.source.captions is not None
        distinct = {caption: row for row, caption in enumerate(dict.fromkeys(self.source.captions))}
        rows = torch.tensor([distinct[caption] for caption in self.source.captions])
        return replace(self, tokens={name: values[rows] for name, values in tokenise(list(distinct)).items()})

    def name_of(self, index: int) -> str:
        """Returns the name of the image at an index, for messages."""
        return self.source.names[self.indices[index]]

    def _reader(self, start: int, order: EpochSampler) -> tuple[Dataset, EpochSampler]:
        return self, order

    def keep(self, device: torch.device) -> KeptImages:
        return KeptImages(self, device)

    def obstacle(self, device: torch.device, processes: int) -> str | None:
        return obstacle(self, device, processes)

    def read(self, index: int) -> tuple[Image.Image, int, bool]:
        """Returns the image, its position in the source, and whether it stands in for one that cannot be read."""
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
        raise InputError(
            f"ten images in a row of {self.report.source} can no longer be read; check that its disk is connected"
        )


def open_dataset(
    source: str | Path,
    *,
    image_size: int | str | tuple[int, int] | None = None,
    channels: int | None = None,
    split: str = "train",
    fit: str = "crop",
    random_flip: bool = False,
    random_crop: bool = False,
    seed: int = 0,
    on_bad_image: str = "skip",
    max_bad_images: float = 0.01,
    value_range: str | tuple[float, float] | None = None,
    max_pixels: int | None = None,
    names: list[str] | None = None,
    class_names: list[str] | None = None,
    captions: str | None = None,
    caption_column: str | None = None,
    progress: bool = True,
) -> ImageDataset:
    """Opens images of any kind, after looking at every file.

    Args:
        source: a folder (searched with all folders in it), a .zip of one, MNIST-style IDX files, a .npz,
            `hf:NAME_OR_PATH`, or a built-in set: `digits` (1,797 real handwritten digits), `shapes`, `scenes` (drawn).
        image_size: the side in pixels, or height and width (a pair, or `"48x64"`). If None, the images must all have
            one size, which is square.
        channels: 1, 3 or 4; if None, 1 where all images are grey and 3 otherwise.
        split: `"train"` or `"test"`, for sources that have both.
        fit: how images get that size: `"crop"`, `"pad"`, `"stretch"` or `"patch"` (see `decode.fit_image`).
        random_flip: mirror half of the images.
        random_crop: crop at random instead of in the middle (with `fit="crop"` and `fit="patch"`).
        seed: sets the augmentation, and the order of `ImageDataset.loader`.
        on_bad_image: `"skip"` leaves unreadable files out and names them; `"error"` stops at the first.
        max_bad_images: with `"skip"`, stop if more than this fraction of the images is unreadable. A single one never
            stops.
        value_range: the values of black and white in 16-bit, 32-bit and float grey images (a pair, or `"0:4095"`). If
            None, they are decided once for all images of a type, and reported.
        max_pixels: images with more pixels are unreadable; `decode.MAX_PIXELS` if None.
        names: the image files to use, as a run recorded them (`file_names`), instead of all. Those that have become
            unreadable keep their place in the order, and others are used instead.
        class_names: with `names`, the classes in the order that the run recorded (`report.class_names`); an empty list
            means no classes. If None, they are found anew.
        captions: where captions come from, one of `options.CAPTIONS`; if None, none are read.
        caption_column: the column of metadata files or of a Hugging Face set that holds them; the usual ones if None.
        progress: show a bar while files are checked.

    Raises:
        InputError: if no image can be used, too many are damaged, or an argument is wrong.
    """
    size, chosen_range = parse_image_size(image_size), parse_value_range(value_range)
    _check_arguments(channels, split, fit, on_bad_image, captions)
    reading = Reading(split, chosen_range, max_pixels, names, class_names, captions, caption_column)
    opened = open_source(str(source), reading)
    if opened.unreadable_folders:
        name, reason = opened.unreadable_folders[0]
        raise InputError(f"the folder {name} in {source} cannot be searched: {reason}")
    found, bad = look_at(opened, progress)
    _check_bad(bad, len(opened), str(source), on_bad_image, max_bad_images)
    if bad and not (names is not None and opened.files):
        opened.keep(list(found))
    facts, problem = describe(str(source), opened, found.values(), chosen_range)
    size = size or facts.smallest
    if size is None or (image_size is None and (size != facts.largest or size[0] != size[1])):
        raise InputError(
            f"the images of {source} are {facts.sizes()} pixels, not all of one square size; say which size to use "
            "(--image-size)"
        )
    if problem is not None:
        raise InputError(f"{source}: {problem}")
    known = vars(facts) | {"num_images": len(opened), "channels": channels or facts.channels}
    about = None if captions is None else CaptionFacts.of(opened.captions or [])
    side = size[0] if size[0] == size[1] else size
    report = DatasetReport(**known, image_size=side, left_out=bad, captions=about)
    values = {"F": (0.0, 1.0)} if opened.deep is not None else values_by_type(facts.deep)
    preparation = Preparation(size, report.channels, fit, random_flip, random_crop, values)
    return ImageDataset(opened, np.arange(len(opened)), report, preparation, seed)


def _check_bad(bad: list[tuple[str, str]], number: int, source: str, on_bad_image: str, max_bad_images: float) -> None:
    """Raises InputError if too many of a number of images are unreadable; `bad` has their names and the reasons."""
    if bad and on_bad_image == "error":
        raise InputError(f"{bad[0][0]} in {source} cannot be used: {bad[0][1]}")
    if len(bad) == number:
        raise InputError(f"{source} holds no image that can be used ({bad[0][0]}: {bad[0][1]})")
    if too_many_bad(len(bad), number, max_bad_images):
        named = "; ".join(f"{name}: {reason}" for name, reason in bad[:3])
        raise InputError(
            f"{len(bad)} of {number} images in {source} cannot be used ({named}); see `cunet data check`, repair or "
            "remove them, or raise --max-bad-images"
        )


def too_many_bad(bad: int, images: int, max_bad_images: float) -> bool:
    """Returns whether more than a fraction of the images is unreadable. A single one says nothing about the others."""
    return bad > max(1, max_bad_images * images)


def train_validation_split(
    dataset: ImageDataset, num_validation: int, seed: int = 0
) -> tuple[ImageDataset, ImageDataset]:
    """Holds images out, chosen at random by the seed; the held-out part is not augmented.

    Raises:
        InputError: if nothing would be left to train on.
    """
    kept, held_out = (
        replace(dataset, indices=dataset.indices[part], report=replace(dataset.report, num_images=len(part)))
        for part in hold_out(num_validation, len(dataset), seed, "images")
    )
    return kept, replace(held_out, preparation=replace(dataset.preparation, random_flip=False, random_crop=False))


def _check_arguments(channels: int | None, split: str, fit: str, on_bad_image: str, captions: str | None) -> None:
    if channels not in (None, 1, 3, 4):
        raise InputError(f"channels={channels} must be 1 (grey), 3 (RGB) or 4 (RGBA)")
    for name, value, allowed in (
        ("split", split, SPLITS),
        ("fit", fit, FITS),
        ("on_bad_image", on_bad_image, ("skip", "error")),
        ("captions", captions, (None, *CAPTIONS)),
    ):
        if value not in allowed:
            raise InputError(f"{name}={value!r} must be one of {', '.join(map(str, allowed))}")
