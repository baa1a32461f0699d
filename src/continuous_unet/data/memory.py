"""Training images that are decoded once and kept as bytes, in memory or on a GPU."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from continuous_unet.base.devices import available_bytes, sent
from continuous_unet.base.randomness import derive_seed
from continuous_unet.base.threads import usable_cores
from continuous_unet.data.preparation import Preparation
from continuous_unet.images.decode import to_array

if TYPE_CHECKING:
    from continuous_unet.data.dataset import ImageDataset
    from continuous_unet.data.loading import Item

SHARE = 0.25
"""The largest fraction of the free memory that images may take."""
THREADS = 8
"""The largest number of threads that decode images for a GPU."""


class KeptImages:
    """The images of a data set on one device, each of which is decoded when it is first asked for.

    Its batches are those of the data set, bit for bit. An image that cannot be read is not kept: the next time it is
    asked for, reading it is tried again.

    Args:
        dataset: images for which `obstacle` returns None.
        device: where they are kept, and where batches are made.
    """

    def __init__(self, dataset: "ImageDataset", device: torch.device) -> None:
        self.dataset, self.device = dataset, device
        self.pixels = torch.empty((len(dataset), *dataset.shape), dtype=torch.uint8, device=device)
        self.known = np.zeros(len(dataset), dtype=bool)
        shades = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        self.values = torch.from_numpy(to_array(shades, 1)).flatten().to(device)
        """What a model sees of each byte."""

    def batch(self, keys: Sequence[tuple[int, int]]) -> "Item":
        """Returns the batch of some `(epoch, index)`, as `TrainingData.loader` yields them.

        The images are on the device, and all else on the CPU.

        Raises:
            InputError: if too many images can no longer be read.
        """
        dataset = self.dataset
        numbers = [index for _, index in keys]
        positions, substitutes = dataset.indices[numbers].tolist(), self._decode(numbers)
        chosen = self.pixels[sent(torch.tensor(numbers), self.device)]
        for place, index in enumerate(numbers):
            if index in substitutes:
                pixels, positions[place] = substitutes[index]
                chosen[place] = pixels.to(self.device)
        images = self.values[chosen.int()]
        if dataset.preparation.random_flip:
            seeds = (derive_seed("augment", dataset.seed, epoch, index) for epoch, index in keys)
            flips = sent(torch.tensor([dataset.preparation.mirrors(seed) for seed in seeds]), self.device)
            images = torch.where(flips[:, None, None, None], images.flip(-1), images)
        rest = [
            {"index": index, "unreadable": index in substitutes, **dataset.about(position)}
            for index, position in zip(numbers, positions, strict=True)
        ]
        return {"image": images, **default_collate(rest)}

    def _decode(self, numbers: Sequence[int]) -> dict[int, tuple[Tensor, int]]:
        """Decodes those of some images that are not known, and returns what replaces the ones that cannot be read."""
        new = [index for index in dict.fromkeys(numbers) if not self.known[index]]
        if not new:
            return {}
        read = self.dataset.read
        if self.device.type == "cpu":
            found = [read(index) for index in new]
        else:  # while the device computes
            with ThreadPoolExecutor(min(THREADS, usable_cores())) as pool:
                found = list(pool.map(read, new))
        tensors = [torch.from_numpy(self._bytes(image)) for image, _, _ in found]
        good = [place for place, (_, _, unreadable) in enumerate(found) if not unreadable]
        if good:
            rows = sent(torch.tensor([new[place] for place in good]), self.device)
            self.pixels[rows] = sent(torch.stack([tensors[place] for place in good]), self.device)
            self.known[[new[place] for place in good]] = True
        return {new[k]: (tensors[k], found[k][1]) for k in range(len(new)) if k not in good}

    def _bytes(self, image: Image.Image) -> np.ndarray:
        pixels = self.dataset.preparation.fitted(image)
        values = np.array(pixels, dtype=np.uint8)
        return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))


def obstacle(dataset: "ImageDataset", device: torch.device, processes: int = 1) -> str | None:
    """Returns why the images of a data set cannot be kept on a device, as a clause; None if they can.

    Args:
        dataset: the images.
        device: where they would be.
        processes: number of processes that share the memory.
    """
    preparation: Preparation = dataset.preparation
    if dataset.stored is not None:
        return "latents are in memory already"
    if preparation.random_crop:
        return "images that are cropped at random differ each time"
    if dataset.report.deep:
        return "images with more than 8 bits a channel are not kept"
    needed, free = len(dataset) * int(np.prod(dataset.shape)), available_bytes(device)
    if needed > SHARE * free / processes:
        return f"the images need {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
    return None
