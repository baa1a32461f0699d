"""Images from tar shards (the webdataset format), for sets that do not fit: read in order, shuffled in a buffer.

Nothing is indexed, so there is no going back to a place: a resumed run begins a fresh pass in another order. That is
declared in the run's record (`RESUME`).
"""

import copy
import logging
import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from continuous_unet.base.errors import InputError
from continuous_unet.base.randomness import derive_seed
from continuous_unet.data.dataset import Preparation, too_many_bad
from continuous_unet.data.loading import TrainingData
from continuous_unet.data.report import DatasetReport
from continuous_unet.data.sources import SUFFIXES
from continuous_unet.images.decode import Unreadable, is_grey, load_image

logger = logging.getLogger(__name__)
RESUME = (
    "approximate: a fresh pass over the shards, in another order; images of the pass that was cut off may come again"
)
SHUFFLE_BUFFER = 1000


def is_stream(source: str) -> bool:
    """Whether a string means tar shards: a .tar, or a folder of them."""
    return bool(find_shards(source))


def find_shards(source: str) -> list[str]:
    """The .tar files that a string means, in the order of their names."""
    path = Path(source)
    if path.suffix.lower() == ".tar" and path.is_file():
        return [str(path)]
    return [str(p) for p in sorted(path.glob("*.tar")) if p.is_file()] if path.is_dir() else []


class StreamDataset(TrainingData, IterableDataset):
    """Endless items `{"image": float32 (C, H, W) in [-1, 1], "index": int, "unreadable": bool}`.

    Each pass goes over all shards, in an order drawn from `(seed, pass)`; they are dealt out to processes and their
    workers, and each shuffles its images in a buffer. An image that cannot be used is left out, with a warning. There
    are no classes.

    Args:
        shards: .tar files, each with samples of an image (webdataset).
        report: what is known of them.
        preparation: from image to tensor.
        seed: of the order and the augmentation.
        max_bad_images: stop if more than this share of what a reader has read cannot be used.
        rank: of this process.
        world_size: number of processes.
        start: images seen before; with 0 the stream begins, with another number a fresh pass does.
    """

    def __init__(
        self,
        shards: list[str],
        report: DatasetReport,
        preparation: Preparation,
        seed: int,
        max_bad_images: float = 0.01,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> None:
        self.shards = shards
        self.report = report
        self.preparation = preparation
        self.seed = seed
        self.max_bad_images = max_bad_images
        self.rank = rank
        self.world_size = world_size
        self.start = start

    resume_promise = RESUME

    @property
    def num_classes(self) -> None:
        """None: a stream has no classes."""

    @property
    def file_names(self) -> None:
        """None: nobody has listed the images of a stream."""

    def name_of(self, index: int) -> str:
        """Returns the name of the image at an index, for messages."""
        return f"image {index} of the stream"

    def _reader(
        self, batch_size: int, start: int, rank: int, world_size: int, seed: int
    ) -> tuple[Dataset, dict[str, Any]]:
        reader = copy.copy(self)
        reader.start, reader.rank, reader.world_size, reader.seed = start, rank, world_size, seed
        return reader, {"batch_size": batch_size}

    def __iter__(self) -> Iterator[dict[str, Any]]:
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
            for name, image in shuffled_samples(shards, seed, SHUFFLE_BUFFER):
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
                f"{bad} of {good + bad} images read from {self.report.source} cannot be used; mend the shards, or "
                "raise max_bad_images"
            )


def shuffled_samples(shards: list[str], seed: int, buffer: int) -> Iterator[tuple[str, Image.Image | None]]:
    """Names and images of some shards; None, with a warning, for what cannot be used."""
    try:
        import webdataset
    except ImportError as error:
        raise InputError("tar shards need the webdataset library: pip install 'continuous-unet[stream]'") from error

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
                yield name, load_image(sample[suffix])
            except Unreadable as error:
                logger.warning("%s in %s is left out: %s", name, sample["__url__"], error)
                yield name, None


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def open_stream(
    source: str,
    *,
    image_size: int | None,
    channels: int | None,
    fit: str,
    random_flip: bool,
    random_crop: bool,
    seed: int,
    max_bad_images: float,
    readers: int,
) -> StreamDataset:
    """Open tar shards after a look at the first image, which tells whether they are grey.

    Args:
        source: a .tar, or a folder of them.
        image_size: side in pixels; must be said.
        channels: 1, 3 or 4; if None, 1 where the first image is grey and 3 otherwise.
        fit: as of `open_dataset`.
        random_flip: mirror half of the images.
        random_crop: crop at random.
        seed: of order and augmentation.
        max_bad_images: of `StreamDataset`.
        readers: processes times workers of each; every one needs a shard of its own.

    Raises:
        InputError: if there is nothing to use, or an argument is missing.
    """
    shards = find_shards(source)
    if image_size is None:
        raise InputError(
            f"{source} is a stream, whose images are not all looked at first: say their size (--image-size)"
        )
    if len(shards) < readers:
        raise InputError(
            f"{source} has {len(shards)} shards, and {readers} would read them (processes times --num-workers); make "
            "more shards, or use fewer workers"
        )
    image = next((image for _, image in shuffled_samples(shards, 0, buffer=1) if image is not None), None)
    if image is None:
        raise InputError(f"{source} holds no image that can be used")
    report = DatasetReport(
        source=source,
        kind=f"stream of {len(shards)} shards",
        num_images=0,
        image_size=image_size,
        channels=channels or (1 if is_grey(image) else 3),
        smallest=image.size,
        largest=image.size,
    )
    preparation = Preparation(image_size, report.channels, fit, random_flip, random_crop)
    return StreamDataset(shards, report, preparation, seed, max_bad_images)
