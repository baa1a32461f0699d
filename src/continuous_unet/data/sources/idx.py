"""IDX files, the format of MNIST."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np

from continuous_unet.base.errors import InputError
from continuous_unet.data.sources.arrays import ArraySource


class IdxSource(ArraySource):
    """MNIST's format: a folder with `train-images-idx3-ubyte` and so on, gzipped or not, or one such file."""

    kind = "idx"
    _PREFIXES: ClassVar = {"train": ("train",), "test": ("t10k", "test")}

    @classmethod
    def matches(cls, source: str) -> bool:
        path = Path(source)
        if path.is_file():
            return "idx3-ubyte" in path.name
        return path.is_dir() and any(path.glob("*-images*idx3-ubyte*"))

    def open(self, source: str) -> None:
        path = Path(source)
        if path.is_dir():
            split = self.reading.split
            prefixes = self._PREFIXES[split]
            found = [p for prefix in prefixes for p in sorted(path.glob(f"{prefix}-images*idx3-ubyte*"))]
            if not found:
                raise InputError(f"{path} holds no IDX images for split={split!r} ({prefixes[0]}-images-…)")
            path = found[0]
        stem = path.name.replace("-images", "-labels").replace("idx3", "idx1")
        others = [path.with_name(stem), path.with_name(stem + ".gz"), path.with_name(stem.removesuffix(".gz"))]
        labels_path = next((p for p in others if p.is_file() and p != path), None)
        labels = None if labels_path is None else _read_idx(labels_path, 1)
        self.set_arrays(path.name, _read_idx(path, 3), labels)
        if self.labels is not None:
            self.class_names = [str(d) for d in range(max(self.labels) + 1)]


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    head = 4 + 4 * dimensions
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            start = file.read(head)
            if len(start) < head or start[:4] != bytes((0, 0, 8, dimensions)):
                raise InputError(f"{path} is not an IDX file of unsigned bytes with {dimensions} dimensions")
            shape = struct.unpack(f">{dimensions}I", start[4:])
            content = file.read(math.prod(shape) + 1)  # no more, however much a small archive unpacks to
    except InputError:
        raise
    except (OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    if len(content) != math.prod(shape):
        raise InputError(
            f"{path} is damaged: its header announces {shape}, and the file holds another number of values"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
