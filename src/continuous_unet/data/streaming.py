"""Images from tar shards (the webdataset format), for data that is too large to be checked before training.

Shards are read in order and shuffled in a buffer. Nothing is indexed, so a resumed run cannot return to its place: it
begins a fresh pass in another order, and `resume_promise` says so in the run's record.
"""

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from continuous_unet.base.errors import InputError
from continuous_unet.base.packages import import_extra
from continuous_unet.base.randomness import derive_seed
from continuous_unet.data.dataset import too_many_bad
from continuous_unet.data.loading import Item, TrainingData
from continuous_unet.data.options import parse_image_size, parse_value_range
from continuous_unet.data.order import EpochSampler
from continuous_unet.data.preparation import Preparation, deep_type
from continuous_unet.data.report import DatasetReport
from continuous_unet.images.decode import Unreadable, is_grey, load_image, value_range
from continuous_unet.images.names import is_image

logger = logging.getLogger(__name__)
Decode = Callable[[bytes], Image.Image]
SHUFFLE_BUFFER = 1000
USUAL_VALUES = {"I;16": (0.0, 65535.0), "I": (0.0, 65535.0), "F": (0.0, 1.0)}
"""Black and white of high-depth images if they are not chosen: a stream cannot look at all images first."""


def is_stream(source: str) -> bool:
    """Returns whether a string names tar shards: a .tar, or a folder of them."""
    return bool(find_shards(source))


def find_shards(source: str) -> list[str]:
    """Returns the .tar files that a string names, in the order of their names."""
    path = Path(source)
    if path.suffix.lower() == ".tar" and path.is_file():
        return [str(path)]
    return [str(p) for p in sorted(path.glob("*.tar")) if p.is_file()] if path.is_dir() else []


@dataclass(eq=False)
class StreamDataset(TrainingData, IterableDataset):
    """Endless items `{"image": float32 (C, H, W) in [-1, 1], "index": int, "unreadable": bool}`.

    Each pass reads all shards, in an order drawn from `(seed, pass)`. They are divided among processes and their
    workers, and each of these shuffles its images in a buffer. An unusable image is left out, with a warning. There are
    no classes.
    """

    resume_promise = (
        "approximate: a fresh pass over the shards, in another order; images of the pass that was cut off may come "
        "again"
    )
    shards: list[str]
    """.tar files, whose samples have one image each (webdataset)."""
    report: DatasetReport
    preparation: Preparation
    seed: int
    """Sets the order and the augmentation."""
    max_bad_images: float
    """Stop if more than this fraction of what one reader has read is unusable."""
    decode: Decode
    rank: int = 0
    world_size: int = 1
    start: int = 0
    """The number of images seen before; each number begins a pass in another order."""

    def __post_init__(self) -> None:
        self.most_readers = len(self.shards)  # every reader needs one of its own

    def name_of(self, index: int) -> str:
        """Returns the name of the image at an index, for messages."""
        return f"image {index} of the stream"

    def _reader(self, start: int, order: EpochSampler) -> tuple[Dataset, None]:
        return replace(self, start=start, rank=order.rank, world_size=order.world_size, seed=order.seed), None

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        workers = 1 if worker is None else worker.num_workers
        slot = self.rank * workers + (0 if worker is None else worker.id)
        slots = self.world_size * workers
        number = slot
        for pass_number in count():
            order = np.random.default_rng(derive_seed("shards", self.seed, self.start, pass_number))
            shards = [self.shards[i] for i in order.permutation(len(self.shards))][slot::slots]
            seed = derive_seed("buffer", self.seed, self.start, pass_number, slot)
            good = bad = 0
            for name, image in shuffled_samples(shards, seed, SHUFFLE_BUFFER, self.decode):
                if image is None:
                    bad += 1
                else:
                    good += 1
                    values = self.preparation(image, derive_seed("augment", self.seed, self.start, pass_number, name))
                    yield {"image": values, "index": number, "unreadable": False}
                    number += slots
                if (good + bad) % 1000 == 0:
                    self._check_share(bad, good)
            self._check_share(bad, good)

    def _check_share(self, bad: int, good: int) -> None:
        if not good or too_many_bad(bad, good + bad, self.max_bad_images):
            raise InputError(
                f"{bad} of {good + bad} images read from {self.report.source} cannot be used; repair the shards, "
                "or raise --max-bad-images"
            )


def decode_image(content: bytes, chosen: tuple[float, float] | None, max_pixels: int | None) -> Image.Image:
    """Returns the image in some bytes.

    Args:
        content: the bytes of a file.
        chosen: black and white of high-depth images; `USUAL_VALUES` if None.
        max_pixels: images with more pixels are unreadable.

    Raises:
        Unreadable: if it cannot be used, also because its values would need a choice.
    """
    image = load_image(content, max_pixels)
    kind = deep_type(image)
    if kind in ("I", "F") and chosen is None and value_range(image)[:2] != USUAL_VALUES[kind]:
        usual = "{:g} to {:g}".format(*USUAL_VALUES[kind])
        raise Unreadable(f"its values do not go from {usual}; say which are black and white (--value-range)")
    return image


def shuffled_samples(
    shards: list[str], seed: int, buffer: int, decode: Decode
) -> Iterator[tuple[str, Image.Image | None]]:
    """Yields names and images of some shards; None, with a warning, for what cannot be used."""
    webdataset = import_extra("webdataset", "tar shards need the webdataset library", "stream")

    def skip(error: Exception) -> bool:
        logger.warning("a shard is damaged, the rest of it is left out: %s", " ".join(str(error).split()))
        return True

    # Bytes only: webdataset's own decoders would unpickle some of what they find, and its URLs may name commands.
    stages = [webdataset.SimpleShardList(shards), webdataset.tarfile_to_samples(handler=skip, select_files=_is_image)]
    if buffer > 1:
        stages.append(webdataset.shuffle(buffer, rng=random.Random(seed)))
    for sample in webdataset.DataPipeline(*stages):
        for suffix in (key for key in sample if not key.startswith("__")):
            name = f"{sample['__key__']}.{suffix}"
            try:
                yield name, decode(sample[suffix])
            except Unreadable as error:
                logger.warning("%s in %s is left out: %s", name, sample["__url__"], error)
                yield name, None


def _is_image(name: str) -> bool:
    return is_image(PurePosixPath(name))


def open_stream(
    source: str,
    *,
    image_size: int | str | tuple[int, int] | None,
    channels: int | None,
    fit: str,
    random_flip: bool,
    random_crop: bool,
    seed: int,
    max_bad_images: float,
    readers: int,
    value_range: str | tuple[float, float] | None = None,
    max_pixels: int | None = None,
) -> StreamDataset:
    """Opens tar shards after a look at the first image, which decides whether they are read as grey.

    The other arguments are those of `open_dataset`.

    Args:
        source: a .tar, or a folder of them.
        image_size: as for `open_dataset`, but required.
        channels: 1, 3 or 4; if None, 1 where the first image is grey and 3 otherwise.
        fit: how images get their size.
        random_flip: mirror half of the images.
        random_crop: crop at random.
        seed: sets the order and the augmentation.
        max_bad_images: as for `StreamDataset`.
        readers: the number of processes times the number of workers of each; every reader needs a shard of its own.
        value_range: black and white of high-depth images. If None, white is 65535 for 16 and 32 bits and 1 for floats,
            and images with other ranges of values are unreadable.
        max_pixels: images with more pixels are unreadable.

    Raises:
        InputError: if no image can be used, or an argument is missing.
    """
    shards = find_shards(source)
    size, chosen = parse_image_size(image_size), parse_value_range(value_range)
    if size is None:
        raise InputError(
            f"{source} is a stream, whose images are not checked before training; give their size (--image-size)"
        )
    if len(shards) < readers:
        raise InputError(
            f"{source} has {len(shards)} shards, and {readers} would read them (processes times --num-workers); make "
            "more shards, or use fewer workers"
        )
    decode = partial(decode_image, chosen=chosen, max_pixels=max_pixels)
    image = next((image for _, image in shuffled_samples(shards, 0, 1, decode) if image is not None), None)
    if image is None:
        raise InputError(f"{source} holds no image that can be used")
    report = DatasetReport(
        source=source,
        kind=f"stream of {len(shards)} shards, of which one image was looked at",
        num_images=0,
        image_size=size[0] if size[0] == size[1] else size,
        channels=channels or (1 if is_grey(image) else 3),
        smallest=image.size,
        largest=image.size,
    )
    values = USUAL_VALUES if chosen is None else dict.fromkeys(USUAL_VALUES, chosen)
    preparation = Preparation(size, report.channels, fit, random_flip, random_crop, values)
    return StreamDataset(shards, report, preparation, seed, max_bad_images, decode)
