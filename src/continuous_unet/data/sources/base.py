"""The base of all sources of images."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from continuous_unet.data.report import DeepImages

LARGEST_FILE_BYTES = 512 * 2**20
MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Reading:
    """The settings that a source is opened with."""

    split: str = "train"
    """`"train"` or `"test"`, for sources that have both."""
    value_range: tuple[float, float] | None = None
    """Black and white of high-depth images; decided for the source if None."""
    max_pixels: int | None = None
    """Images with more pixels are refused; `decode.MAX_PIXELS` if None."""
    names: Sequence[str] | None = None
    """The image files to use; all if None."""
    class_names: Sequence[str] | None = None
    """With `names`, the classes in their order. If empty, there are no classes; if None, they are found anew."""
    captions: str | None = None
    """Where captions come from (`data.options.CAPTIONS`); None where nobody needs them."""
    caption_column: str | None = None
    """The column of a table that holds captions; the usual ones are looked for if None."""


class Source(ABC):
    """A finite, ordered collection of images, with names, perhaps labels, and a way to load each image.

    Decoding rules, sizes and augmentation belong elsewhere. Images may be loaded by several threads, and in forked
    processes, so nothing that has a position, such as an open file, may be shared between processes.
    """

    kind: ClassVar[str]
    files: ClassVar[bool] = False
    """Whether the images are files, whose names a run records so that it can continue with the same ones."""
    alike: ClassVar[bool] = False
    """Whether all images have one size and one mode, so that a look at one of them is enough."""
    names: list[str]
    labels: list[int] | None = None
    class_names: list[str] | None = None
    captions: list[str] | None = None
    """What each image shows, in words; None where nothing says so, or where nobody asked."""
    why_no_classes: str = ""
    deep: Sequence[DeepImages] | None = None
    """How high-depth values are read, if the source decides that; `load` then returns values in [0, 1]."""
    not_searched: Sequence[tuple[str, str]] = ()
    """Folders that were left out on purpose, and why."""
    unreadable_folders: Sequence[tuple[str, str]] = ()
    """Folders that should have been searched and could not."""
    left_aside: Counter[str]
    """The number of image files of each kind that is not read, by the ending of their names."""

    def __init__(self, source: str, reading: Reading) -> None:
        self.reading = reading
        self.left_aside = Counter()
        self.open(source)

    @classmethod
    @abstractmethod
    def matches(cls, source: str) -> bool:
        """Returns whether a string names a source of this kind."""

    @abstractmethod
    def open(self, source: str) -> None:
        """Opens a source as `self.reading` says, and sets `names`.

        Raises:
            InputError: if it cannot be opened, or holds nothing that can be used.
        """

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Decodes image `index`.

        Raises:
            Unreadable: if it cannot be used.
        """

    def keep(self, indices: Sequence[int]) -> None:
        """Keeps only some of the images, by their positions."""
        self.names = [self.names[i] for i in indices]
        if self.labels is not None:
            self.labels = [self.labels[i] for i in indices]
        if self.captions is not None:
            self.captions = [self.captions[i] for i in indices]

    def __len__(self) -> int:
        return len(self.names)
