"""Image files in a folder or an archive: finds which are images, and which folders are classes or splits."""

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import PurePosixPath

from continuous_unet.base.errors import InputError
from continuous_unet.data.sources.base import Source
from continuous_unet.data.sources.captions import find_captions
from continuous_unet.images.names import NOT_READ, SUFFIXES, describe_left_out, is_hidden, is_image

_PARTS = {"train": ("train", "training"), "test": ("test", "testing"), "val": ("val", "valid", "validation")}
"""Names of the folders that hold each part of the data."""

_NUMBERS = re.compile(r"\d+")


class FileSource(Source):
    """Images that are files. The first folder of each is its class, if all are in folders and at least two exist."""

    files = True

    def take_names(self, names: Iterable[str], where: str) -> None:
        """Takes the images that `reading` names, or else those among some file names that belong to the split."""
        paths = {name: PurePosixPath(name) for name in names}
        endings = [path.suffix.lower() for path in paths.values() if not is_hidden(path)]
        self.left_aside = Counter(ending for ending in endings if ending in NOT_READ)
        self.where = where
        if self.reading.names is not None:
            self.set_names(self.reading.names, self.reading.class_names)
        else:
            images = [name for name, path in paths.items() if is_image(path)]
            self.set_names(choose_split(images, self.reading.split, where))
        mode, column = self.reading.captions, self.reading.caption_column
        if mode is not None:
            self._set_captions(find_captions(mode, self.names, paths, self.read_text, column, where))

    @abstractmethod
    def read_text(self, name: str) -> str:
        """Returns the content of a text file.

        Raises:
            OSError, ValueError: if it cannot be read.
        """

    def _set_captions(self, captions: Mapping[str, str]) -> None:
        """Takes captions by the name of the image; none at all leaves the source without captions.

        Raises:
            InputError: if only some images have one.
        """
        missing = [name for name in self.names if name not in captions]
        if len(missing) == len(self.names):
            return
        if missing:
            raise InputError(
                f"{len(missing)} of {len(self.names)} images in {self.where} have no caption, such as {missing[0]}; "
                "add the captions, or remove these images"
            )
        self.captions = [captions[name] for name in self.names]

    def set_names(self, names: Sequence[str], class_names: Sequence[str] | None = None) -> None:
        """Sorts the names and finds their classes.

        Args:
            names: the names of the images to use.
            class_names: the classes in their order, if they are known; a class is a folder anywhere in a name. If None,
                they are found. If empty, there are no classes.

        Raises:
            InputError: if there are no names.
        """
        self.names = sorted(names)
        if not self.names:
            others = f"; left aside: {describe_left_out(self.left_aside)} (not read)" if self.left_aside else ""
            raise InputError(f"{self.where} holds no images ({', '.join(sorted(SUFFIXES))}){others}")
        self.labels = self.class_names = None
        self.why_no_classes = ""
        if class_names is None:
            tops = top_of_each(self.names)
            classes = sorted_classes({top for top in tops if top is not None})
        else:
            tops = [next((p for p in name.split("/")[:-1] if p in class_names), None) for name in self.names]
            classes = list(class_names)
        if len(classes) < (2 if class_names is None else 1):
            return
        outside = [name for name, top in zip(self.names, tops, strict=True) if top is None]
        if outside:
            shown = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
            self.why_no_classes = (
                f"its {len(classes)} folders ({shown}) are not taken as classes, because {len(outside)} images lie "
                f"outside of them, such as {outside[0]}"
            )
            return
        self.class_names = classes
        number = {name: i for i, name in enumerate(classes)}
        self.labels = [number[top] for top in tops if top is not None]

    def keep(self, indices: Sequence[int]) -> None:
        captions = None if self.captions is None else dict(zip(self.names, self.captions, strict=True))
        self.set_names([self.names[i] for i in indices])
        if captions is not None:
            self._set_captions(captions)


def top_of_each(names: Sequence[str]) -> list[str | None]:
    """Returns the first folder of each name below the folders that all names begin with; None if there is no folder."""
    folders = [name.split("/")[:-1] for name in names]
    common = sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(*folders, strict=False)))
    return [inner[common] if len(inner) > common else None for inner in folders]


def sorted_classes(names: Iterable[str]) -> list[str]:
    """Returns class names in natural order: numbers in them count as numbers, so `cat 2` comes before `cat 10`."""

    def key(name: str) -> list[tuple[str, int]]:
        texts, numbers = _NUMBERS.split(name), _NUMBERS.findall(name)
        return [(text, int(number)) for text, number in zip(texts, [*numbers, "-1"], strict=True)]

    return sorted(sorted(names), key=key)


def choose_split(names: Sequence[str], split: str, where: str) -> list[str]:
    """Returns the names of one split if at least two have folders (`train/`, `val/`, `test/`), and all names otherwise.

    For `split="test"` the folder `val/` is used if `test/` does not exist.

    Raises:
        InputError: if such folders exist, but none for this split, or if images lie outside of them.
    """
    tops = top_of_each(names)
    parts = {top: part for part, known in _PARTS.items() for top in tops if top is not None and top.lower() in known}
    if len(set(parts.values())) < 2:
        return list(names)
    outside = [name for name, top in zip(names, tops, strict=True) if top not in parts]
    if outside:
        raise InputError(
            f"{where} has the folders {', '.join(sorted(parts))}, and {len(outside)} images outside of them, such as "
            f"{outside[0]}; name one of the folders as the data, or move the others away"
        )
    wanted = split if split in parts.values() or split == "train" else "val"
    chosen = [name for name, top in zip(names, tops, strict=True) if parts.get(top or "") == wanted]
    if not chosen:
        raise InputError(f"{where} has the folders {', '.join(sorted(parts))}, and none for split={split!r}")
    return chosen
