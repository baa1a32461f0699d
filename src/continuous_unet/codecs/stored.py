"""The latents of a data set, which are made once and stored, so that training reads them and not the images.

A folder of them has one safetensors file for every `SHARD` images. Each file says of which images and of which codec it
is, and has a checksum. Work that was cut off goes on with the file that is missing.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.files import replace_file
from continuous_unet.base.results import Json
from continuous_unet.codecs.autoencoder import Autoencoder, fingerprint
from continuous_unet.codecs.base import Scale, latent_size
from continuous_unet.data.dataset import ImageDataset

SHARD = 2048
"""Number of images in a file."""
BATCH = 32
"""Number of images that are encoded at a time; the last batch of a file may be smaller."""


@dataclass(eq=False)
class StoredLatents:
    """Gives the latents of the images of a source by their position, as `ImageDataset.stored` asks for them.

    The shape is known from the start. `make` or `open` provides the latents, and `scale` has to be set before they are
    read.
    """

    codec: Autoencoder
    """Without a scale."""
    dataset: ImageDataset
    """All images of the source, in their order."""
    mirrored: bool
    """Whether the mirrored images are stored as well."""
    scale: Scale | None = None

    def __post_init__(self) -> None:
        self.dataset = replace(
            self.dataset, preparation=replace(self.dataset.preparation, random_flip=False, random_crop=False)
        )
        self.shape = (self.codec.latent_channels, *latent_size(self.codec, *self.dataset.report.size))
        self.shards: list[Tensor] = []

    def __call__(self, position: int, mirrored: bool) -> Tensor:
        """Returns the latents `(c, h, w)` of the image at a position, with mean 0 and variance 1."""
        assert self.scale is not None
        latents = self.shards[position // SHARD][position % SHARD, int(mirrored)]
        return self.scale.apply(latents[None])[0]

    def make(self, folder: Path, progress: bool = True) -> None:
        """Encodes what is not yet in a folder.

        Raises:
            InputError: if the folder holds other latents, an image cannot be read, or nothing can be written.
        """
        key = self._key()
        names = list(self._names(folder))
        missing = [number for number, path in enumerate(names) if not self._is_whole(path, key, number)]
        total = sum(len(self._numbers(number)) for number in missing)
        with tqdm(total=total, desc="encoding images", unit="image", disable=not progress or not missing) as bar:
            for number in missing:
                batches = []
                numbers = self._numbers(number)
                for start in range(numbers.start, numbers.stop, BATCH):
                    batches.append(self._encode(range(start, min(start + BATCH, numbers.stop))))
                    bar.update(len(batches[-1]))
                latents = torch.cat(batches)
                about = {"key": key, "sha256": _checksum(latents)}
                replace_file(names[number], partial(save_file, {"latents": latents}, metadata=about))

    def open(self, folder: Path) -> None:
        """Reads the latents that `make` wrote.

        Raises:
            InputError: if they are not those of these images, which is tried for two of them.
        """
        self.shards = [load_file(path)["latents"] for path in self._names(folder)]
        for position in {0, len(self.dataset) - 1}:
            stored, now = self.shards[position // SHARD][position % SHARD], self._encode(range(position, position + 1))
            if not torch.allclose(stored, now[0], rtol=0.05, atol=0.05 * float(now.std()) + 1e-6):
                name = self.dataset.name_of(position)
                raise InputError(f"the latents in {folder} are not those of {name}, which has changed; remove them")

    def measure(self, positions: np.ndarray) -> Scale:
        """Returns the scale of the latents of some images, rounded so that it is the same whatever the order of sums.

        Raises:
            InputError: if they are not finite, or all the same.
        """
        count, sums, squares = 0, torch.zeros(self.shape[0]).double(), torch.zeros(self.shape[0]).double()
        for number, shard in enumerate(self.shards):
            own = torch.from_numpy(positions[positions // SHARD == number] % SHARD)
            for part in own.split(256):
                values = shard[part].double().transpose(0, 2).flatten(1)
                count += values.shape[1]
                sums, squares = sums + values.sum(dim=1), squares + (values**2).sum(dim=1)
        mean = sums / count
        std = (squares / count - mean**2).clamp(min=0).sqrt()
        if not bool(std.isfinite().all()) or float(std.min()) <= 1e-6:
            raise InputError(
                "the codec makes latents of these images that are not finite, or all the same; train it more"
            )
        rounded = ([float(f"{value:.6g}") for value in values.tolist()] for values in (mean, std))
        return Scale(*map(tuple, rounded))

    def _encode(self, positions: range) -> Tensor:
        """Returns the latents `(B, 1 or 2, c, h, w)` of images, and of the mirrored ones."""
        images = torch.stack([self._image(position) for position in positions])
        kinds = [images, images.flip(-1)] if self.mirrored else [images]
        return torch.stack([self.codec.encode(kind).cpu() for kind in kinds], dim=1).contiguous()

    def _image(self, position: int) -> Tensor:
        item = self.dataset[position]
        if item["unreadable"]:
            name = self.dataset.name_of(position)
            raise InputError(f"{name} can no longer be read, and its latents are not made yet; put it back")
        return item["image"]

    def _names(self, folder: Path) -> Iterator[Path]:
        return (folder / f"{number:05d}.safetensors" for number in range(-(-len(self.dataset) // SHARD)))

    def _numbers(self, shard: int) -> range:
        return range(shard * SHARD, min((shard + 1) * SHARD, len(self.dataset)))

    def _key(self) -> str:
        """Returns what identifies the latents: the codec, the images by name, and how they are prepared."""
        report: Json = self.dataset.report.to_dict()
        facts = {name: report[name] for name in ("num_images", "image_size", "channels", "smallest", "largest", "deep")}
        preparation = self.dataset.preparation
        about = [fingerprint(self.codec), facts, preparation.fit, sorted(preparation.values.items()), self.mirrored]
        about.append(self.dataset.source.names)
        return hashlib.sha256(json.dumps(about).encode("utf-8", "backslashreplace")).hexdigest()

    def _is_whole(self, path: Path, key: str, shard: int) -> bool:
        """Returns whether a file holds its latents; a damaged one is made again.

        Raises:
            InputError: if it holds the latents of other images, or of another codec.
        """
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
            latents = load_file(path).get("latents")
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read ({first_line(error)}); remove it") from error
        if about.get("key") != key:
            raise InputError(
                f"{path.parent} holds the latents of other images, or of another codec; name another folder (--latents)"
            )
        expected = (len(self._numbers(shard)), 1 + self.mirrored, *self.shape)
        return latents is not None and latents.shape == expected and _checksum(latents) == about.get("sha256")


def _checksum(latents: Tensor) -> str:
    return hashlib.sha256(latents.contiguous().numpy().tobytes()).hexdigest()
