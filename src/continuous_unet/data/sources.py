"""Where images come from. A new source is a class here, an entry in `SOURCES`, and one in `tests/data/test_sources.py`.

A source knows names, labels and how to load one image; decoding rules, sizes and augmentation are not its business.
"""

import gzip
import math
import os
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw

from continuous_unet.base.errors import InputError
from continuous_unet.images.decode import Unreadable, load_image

SUFFIXES = {
    ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip
MOST_CLASSES = 100_000
LARGEST_FILE_BYTES = 512 * 2**20


class Source(ABC):
    """A finite, ordered collection of images."""

    kind: ClassVar[str]
    files: ClassVar[bool] = False
    """Whether images are files, any of which may be damaged, so that they are checked before training."""
    names: list[str]
    labels: list[int] | None = None
    class_names: list[str] | None = None
    not_searched: Sequence[tuple[str, str]] = ()
    """Folders that were left out, and why."""
    unreadable_folders: Sequence[tuple[str, str]] = ()
    """Folders that should have been searched and could not."""

    @classmethod
    @abstractmethod
    def matches(cls, source: str) -> bool:
        """Whether `open_dataset(source)` means this kind."""

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Decode image `index`; raises `Unreadable`."""

    def __len__(self) -> int:
        return len(self.names)


class ArraySource(Source):
    """Images that are in memory as one array `(N, H, W)` or `(N, H, W, C)`: uint8, or float in [0, 1]."""

    def set_arrays(self, name: str, images: np.ndarray, labels: np.ndarray | None) -> None:
        if images.ndim == 4 and images.shape[3] == 1:
            images = images[..., 0]
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (3, 4)):
            raise InputError(f"{name} has the shape {images.shape}; expected (N, H, W) or (N, H, W, C), C = 1, 3 or 4")
        if 0 in images.shape[1:]:
            raise InputError(f"{name} has the shape {images.shape}: its images have no pixels")
        if labels is not None:
            if not np.issubdtype(labels.dtype, np.integer):
                raise InputError(f"{name} has labels of type {labels.dtype}; expected whole numbers")
            if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES:
                raise InputError(
                    f"{name} has labels {labels.min()} to {labels.max()}; expected 0 to {MOST_CLASSES - 1}"
                )
            if labels.shape != (len(images),):
                raise InputError(f"{name} has {len(images)} images and labels of shape {labels.shape}; they must match")
            self.labels = [int(label) for label in labels]
        self.images = images
        self.names = [f"{name}[{i}]" for i in range(len(images))]

    def load(self, index: int) -> Image.Image:
        pixels = self.images[index]
        if pixels.dtype != np.uint8:
            if pixels.ndim == 2:
                return Image.fromarray(pixels.astype(np.float32), mode="F")
            pixels = np.round(pixels * 255).astype(np.uint8)
        return Image.fromarray(pixels)


class DigitsSource(ArraySource):
    """The 1,797 handwritten digits that scikit-learn ships, 8x8 grey: real images that need no network.

    Test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI).
    """

    kind = "digits"

    @classmethod
    def matches(cls, source: str) -> bool:
        return source == "digits"

    def __init__(self, source: str, split: str) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise InputError(
                "the data set 'digits' needs scikit-learn: pip install 'continuous-unet[digits]'"
            ) from error
        digits = load_digits()
        self.set_arrays("digits", (digits.images / 16).astype(np.float32), digits.target)
        self.class_names = [str(d) for d in range(10)]


class ShapesSource(Source):
    """A drawn set: one circle, square or triangle of random colour, size and place on a random ground; 4,096 images."""

    kind = "shapes"
    size = 64

    @classmethod
    def matches(cls, source: str) -> bool:
        return source == "shapes"

    def __init__(self, source: str, split: str) -> None:
        self.names = [f"shapes[{i}]" for i in range(4096)]
        self.class_names = ["circle", "square", "triangle"]
        self.labels = [i % 3 for i in range(4096)]

    def load(self, index: int) -> Image.Image:
        rng = np.random.default_rng(index)
        scale = 4  # drawn large and shrunk, which smooths the edges
        side = self.size * scale
        ground, colour = (tuple(int(c) for c in rng.integers(0, 256, 3)) for _ in range(2))
        radius = rng.uniform(0.15, 0.35) * side
        x, y = rng.uniform(radius, side - radius, 2)
        image = Image.new("RGB", (side, side), ground)
        draw = ImageDraw.Draw(image)
        if index % 3 == 0:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            draw.regular_polygon((x, y, radius), 4 if index % 3 == 1 else 3, int(rng.integers(0, 90)), fill=colour)
        return image.resize((self.size, self.size), Image.Resampling.BOX)


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

    def __init__(self, source: str, split: str) -> None:
        path = Path(source)
        if path.is_dir():
            found = [p for prefix in self._PREFIXES[split] for p in sorted(path.glob(f"{prefix}-images*idx3-ubyte*"))]
            if not found:
                raise InputError(
                    f"{path} holds no IDX images for split={split!r} ({self._PREFIXES[split][0]}-images-…)"
                )
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
        raise InputError(f"{path} is damaged: its header says {shape}, and it does not hold as many values")
    return np.frombuffer(content, np.uint8).reshape(shape)


class NpzSource(ArraySource):
    """A NumPy archive with `images` (or `x_train`, `x_test`, `arr_0`) and perhaps `labels` (or `y_train`, `y_test`).

    uint8, or float in [0, 1] or [-1, 1] (told apart by the smallest value).
    """

    kind = "npz"

    @classmethod
    def matches(cls, source: str) -> bool:
        return source.lower().endswith(".npz") and Path(source).is_file()

    def __init__(self, source: str, split: str) -> None:
        try:
            with np.load(source, allow_pickle=False) as archive:
                keys = list(archive)
                image_key = next((k for k in ("images", f"x_{split}", "arr_0") if k in keys), None)
                if image_key is None:
                    raise InputError(f"{source} holds {', '.join(keys)}; expected an array named images or x_{split}")
                label_key = next((k for k in ("labels", f"y_{split}") if k in keys), None)
                images = archive[image_key]
                labels = None if label_key is None else archive[label_key].reshape(-1)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{source} cannot be read as a NumPy archive ({error})") from error
        if images.dtype != np.uint8:
            if not np.issubdtype(images.dtype, np.floating):
                raise InputError(f"{source}: images are {images.dtype}; expected uint8 or float")
            low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
            if not (low >= -1 and high <= 1):
                raise InputError(f"{source}: float images lie in [{low:g}, {high:g}]; expected [0, 1] or [-1, 1]")
            images = (images + 1) / 2 if low < 0 else images
        self.set_arrays(Path(source).name, images, labels)


class _FileSource(Source):
    files = True

    def set_names(self, names: Sequence[str], where: str) -> None:
        """Sort, and take first-level folders as classes where every image is in one and there are at least two."""
        self.names = sorted(names)
        if not self.names:
            raise InputError(f"{where} holds no images ({', '.join(sorted(SUFFIXES))})")
        self.class_names = self.labels = None
        tops = [PurePosixPath(name).parts[0] if "/" in name else None for name in self.names]
        classes = sorted({top for top in tops if top is not None})
        if None not in tops and len(classes) >= 2:
            self.class_names = classes
            self.labels = [classes.index(top) for top in tops if top is not None]


def _is_image_name(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES


class FolderSource(_FileSource):
    """A folder of images, searched through; first-level sub-folders are classes."""

    kind = "folder"

    @classmethod
    def matches(cls, source: str) -> bool:
        return Path(source).is_dir() and not (Path(source) / "dataset_info.json").is_file()

    def __init__(self, source: str, split: str) -> None:
        self.root = Path(source)
        names: list[str] = []
        self.not_searched = not_searched = []
        self.unreadable_folders = unreadable_folders = []

        def unreadable(error: OSError) -> None:
            unreadable_folders.append((self._relative(error.filename), str(error.strerror)))

        # Links to folders are not followed: they may lead in circles. Links to files are.
        for folder, inner, files in os.walk(self.root, onerror=unreadable):
            relative = self._relative(folder)
            names += [file if relative == "." else f"{relative}/{file}" for file in files]
            links = [self._relative(os.path.join(folder, name)) for name in inner if Path(folder, name).is_symlink()]
            not_searched += [(name, "a link to a folder is not followed") for name in links]
        self.set_names([name for name in names if _is_image_name(name)], f"the folder {self.root}")

    def _relative(self, path: str) -> str:
        return Path(path).relative_to(self.root).as_posix()

    def load(self, index: int) -> Image.Image:
        path = self.root / self.names[index]
        try:
            found = path.stat()
        except (OSError, ValueError) as error:
            raise Unreadable(getattr(error, "strerror", None) or str(error)) from error
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("not a regular file")
        if found.st_size == 0:
            raise Unreadable("the file is empty")
        if not os.access(path, os.R_OK):
            raise Unreadable("no permission to read it")
        return load_image(path)


class ZipSource(_FileSource):
    """A zip of a folder of images, read without unpacking."""

    kind = "zip"

    @classmethod
    def matches(cls, source: str) -> bool:
        return source.lower().endswith(".zip") and Path(source).is_file()

    def __init__(self, source: str, split: str) -> None:
        self.path = source
        self._archive: zipfile.ZipFile | None = None
        try:
            with zipfile.ZipFile(source) as archive:
                members = [info.filename for info in archive.infolist() if not info.is_dir()]
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{source} cannot be read as a zip archive ({error})") from error
        names = [name for name in members if _is_image_name(name)]
        tops = {PurePosixPath(name).parts[0] if "/" in name else None for name in names}
        # A zip made from outside the folder has the folder as its one top; classes are one level below then.
        self._top = f"{tops.pop()}/" if len(tops) == 1 and None not in tops else ""
        self.set_names([name.removeprefix(self._top) for name in names], f"the archive {source}")

    def load(self, index: int) -> Image.Image:
        if self._archive is None:
            self._archive = zipfile.ZipFile(self.path)
        try:
            info = self._archive.getinfo(self._top + self.names[index])
            if info.file_size > LARGEST_FILE_BYTES:
                raise Unreadable(f"{info.file_size} bytes when unpacked; at most {LARGEST_FILE_BYTES} are read")
            if info.file_size == 0:
                raise Unreadable("the file is empty")
            content = self._archive.read(info)
        except Unreadable:
            raise
        except Exception as error:  # damaged members raise zlib, struct and other errors
            raise Unreadable(f"{type(error).__name__}: {error}") from error
        return load_image(content)

    def __getstate__(self) -> dict[str, Any]:
        # an open archive cannot go to another process, and must not be shared by forked ones
        return {**self.__dict__, "_archive": None}


class HubSource(Source):
    """A Hugging Face data set: `hf:NAME` from the hub, or `hf:PATH` saved by `save_to_disk` or holding its files."""

    kind = "hub"

    @classmethod
    def matches(cls, source: str) -> bool:
        return source.startswith("hf:") or (Path(source) / "dataset_info.json").is_file()

    def __init__(self, source: str, split: str) -> None:
        try:
            import datasets
        except ImportError as error:
            raise InputError(f"{source!r} needs the datasets library: pip install 'continuous-unet[hub]'") from error
        name = source.removeprefix("hf:")
        path = Path(name)
        try:
            if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
                data = datasets.load_from_disk(name)
                data = data[split] if isinstance(data, datasets.DatasetDict) else data
            else:
                data = datasets.load_dataset(name, split=split)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"the data set {name!r} (split {split!r}) cannot be opened: {reason}") from error
        images = [k for k, f in data.features.items() if isinstance(f, datasets.Image)]
        if not images:
            raise InputError(f"the data set {name!r} has no image column, only {', '.join(data.features)}")
        self.column = images[0]
        classes = [k for k, f in data.features.items() if isinstance(f, datasets.ClassLabel)]
        if classes:
            self.class_names = list(data.features[classes[0]].names)
            self.labels = [int(label) for label in data[classes[0]]]
        # bytes rather than decoded images, so that one decoder serves all sources
        self.data = data.cast_column(self.column, datasets.Image(decode=False))
        self.names = [f"{name}[{i}]" for i in range(len(data))]

    def load(self, index: int) -> Image.Image:
        entry = self.data[index][self.column]
        return load_image(entry["bytes"] if entry["bytes"] is not None else entry["path"])


SOURCES: tuple[type[Source], ...] = (
    DigitsSource,
    ShapesSource,
    NpzSource,
    ZipSource,
    IdxSource,
    HubSource,
    FolderSource,
)
"""The sources in the order in which they are asked."""

BUILT_IN = ("digits", "shapes")


def open_source(source: str, split: str) -> Source:
    """The source that a string means.

    Raises:
        InputError: if none fits, or the one that does cannot be opened.
    """
    for kind in SOURCES:
        if kind.matches(source):
            return kind(source, split)  # type: ignore[call-arg]
    if Path(source).exists():
        raise InputError(f"{source} is no kind of data known here; expected {_EXPECTED}")
    raise InputError(f"{source} does not exist; expected {_EXPECTED}")


_EXPECTED = (
    "a folder of images, a .zip of one, MNIST-style IDX files, a .npz, hf:NAME, or a built-in set "
    f"({', '.join(BUILT_IN)})"
)
