"""The order in which images are seen, and which of them are held out; both depend on the seed alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from continuous_unet.base.errors import InputError
from continuous_unet.base.randomness import derive_seed


@dataclass(frozen=True)
class EpochSampler:
    """Yields batches without end, as lists of `(epoch, index)`.

    Position p of the global sequence is image `permutation(seed, p // n)[p % n]`, so each image comes once an epoch,
    and batches run across the ends of epochs. Batch s of rank r of W holds the positions `(s W + r) B` to
    `(s W + r + 1) B`. Starting at any batch costs nothing, and the sequence does not depend on the number of processes.
    """

    num_images: int
    """The number of images, n."""
    batch_size: int
    """The number of images in a batch of one process, B."""
    seed: int = 0
    """Sets the order."""
    start_batch: int = 0
    """The number of the first batch to yield."""
    rank: int = 0
    """The number of this process, r."""
    world_size: int = 1
    """The number of processes, W."""

    def positions(self, batch: int) -> range:
        """Returns the positions in the global sequence of one batch."""
        start = (batch * self.world_size + self.rank) * self.batch_size
        return range(start, start + self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, np.ndarray] = {}
        for batch in count(self.start_batch):
            keys = []
            for position in self.positions(batch):
                epoch = position // self.num_images
                if epoch not in orders:
                    orders = {k: v for k, v in orders.items() if k >= epoch - 1}
                    rng = np.random.default_rng(derive_seed("order", self.seed, epoch))
                    orders[epoch] = rng.permutation(self.num_images)
                keys.append((epoch, int(orders[epoch][position % self.num_images])))
            yield keys


def hold_out(number: int, count: int, seed: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of what is trained on, and those of what is held out, chosen at random by the seed.

    Args:
        number: how many are held out.
        count: how many there are.
        seed: the seed of the run.
        what: what they are, for the error.

    Raises:
        InputError: if nothing would be left to train on.
    """
    if not 0 <= number < count:
        raise InputError(
            f"{number} validation {what} leave nothing to train on: there are {count} {what}; take fewer with "
            "--num-validation"
        )
    held_out, kept = np.split(np.random.default_rng(derive_seed("validation", seed)).permutation(count), [number])
    return np.sort(kept), np.sort(held_out)
