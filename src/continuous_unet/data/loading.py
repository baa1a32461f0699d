"""Endless batches for training, which the loaders of all data sets yield in the same way."""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from continuous_unet.base.errors import InputError
from continuous_unet.base.signals import outlive_first_signal
from continuous_unet.data.order import EpochSampler
from continuous_unet.data.report import DatasetReport

Item = dict[str, Any]
"""An image, or a batch of them, with its index and label; see the package."""


class Kept(Protocol):
    """Images that are in memory already."""

    def batch(self, keys: Sequence[tuple[int, int]], /) -> Item:
        """Returns the batch of some `(epoch, index)`."""


class HeldOut(Protocol):
    """Samples by number that validation measures a model on."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: int, /) -> Item: ...


class TrainingData(ABC):
    """Base of the data sets that training reads, whether they are indexed or a stream."""

    report: DatasetReport
    seed: int
    resume_promise: ClassVar[str]
    """How exactly a resumed run continues in this data, in words for people."""

    most_readers: int = 2**16
    """The largest number of processes that can share the reading."""

    @property
    def num_classes(self) -> int | None:
        """The number of classes, or None if the images have none."""
        return None if self.report.class_names is None else len(self.report.class_names)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample as a model sees it: of an image the channels, height and width."""
        return (self.report.channels, *self.report.size)

    @property
    def file_names(self) -> list[str] | None:
        """The names of all image files of the source, which `open_dataset(names=...)` takes; None if not files."""
        return None

    @property
    def captions(self) -> list[str] | None:
        """What each image shows, in words, by its index; None if there are no captions."""
        return None

    @abstractmethod
    def name_of(self, index: int) -> str:
        """Returns the name of the image at an index, for messages."""

    def obstacle(self, device: torch.device, processes: int) -> str | None:
        """Returns why the images cannot be kept on a device, as a clause; None if they can."""
        return "a stream has no end"

    def keep(self, device: torch.device) -> Kept:
        """Returns the images, each of which is decoded once and kept on a device; see `obstacle`."""
        raise NotImplementedError

    @abstractmethod
    def _reader(self, start: int, order: EpochSampler) -> tuple[Dataset, EpochSampler | None]:
        """Returns what one process reads after `start` images of all, and in which order; None for that of a stream."""

    def loader(
        self,
        batch_size: int,
        *,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int | None = None,
        kept: Kept | None = None,
    ) -> Generator[tuple[range, Item], None, None]:
        """Yields the batches of one process without end, each with its positions in the global sequence of images.

        A batch holds `image` float32 (B, C, H, W) in [-1, 1], `index` and `unreadable` (B,), and `label` (B,) where the
        images have classes. Close the generator to end its worker processes.

        Args:
            batch_size: the number of images in a batch, for each process.
            start: the number of images that all processes have seen before. It is rounded up to whole batches, so that
                no image comes again if the number of processes has changed.
            rank: the number of this process.
            world_size: the number of processes.
            num_workers: the number of worker processes that load images; 0 loads them in this process.
            pin_memory: whether to put batches into page-locked memory, for a faster copy to a GPU.
            seed: sets the order; the data set's own seed if None.
            kept: makes the batches from images in memory, where `keep` has made it; no workers are needed then.

        Raises:
            InputError: if too many images can no longer be read; with the message alone if a worker raised it.
        """
        first, seed = math.ceil(start / (batch_size * world_size)), self.seed if seed is None else seed
        order = EpochSampler(self.report.num_images, batch_size, seed, first, rank, world_size)
        if kept is not None:
            for number, keys in enumerate(order, first):
                yield order.positions(number), kept.batch(keys)
        dataset, batches = self._reader(start, order)
        loader = DataLoader(
            dataset,
            batch_size=batch_size if batches is None else 1,  # the default, which a sampler of batches requires
            batch_sampler=batches,
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=outlive_first_signal if num_workers else None,
        )
        try:
            for number, batch in enumerate(loader, first):
                yield order.positions(number), batch
        except InputError as error:
            # torch puts the whole traceback into the message of an exception that comes from a worker
            message = str(error).rpartition(f"{InputError.__module__}.{InputError.__name__}: ")[2].strip()
            error.__traceback__ = None  # its frames hold the iterator, and that the workers
        raise InputError(message)
