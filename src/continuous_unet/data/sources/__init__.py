"""The kinds of sources that images come from, one file each.

A new source is a file here with a subclass of `Source`, an entry in `SOURCES`, and one in `tests/data/test_sources.py`.
"""

from pathlib import Path

from continuous_unet.base.errors import InputError
from continuous_unet.data.sources.archive import ZipSource
from continuous_unet.data.sources.base import Reading, Source
from continuous_unet.data.sources.digits import DigitsSource
from continuous_unet.data.sources.files import FileSource
from continuous_unet.data.sources.folder import FolderSource
from continuous_unet.data.sources.hub import HubSource
from continuous_unet.data.sources.idx import IdxSource
from continuous_unet.data.sources.npz import NpzSource
from continuous_unet.data.sources.shapes import ShapesSource

__all__ = ["SOURCES", "FileSource", "Reading", "Source", "open_source"]

SOURCES: list[type[Source]] = [DigitsSource, ShapesSource, NpzSource, ZipSource, IdxSource, HubSource, FolderSource]
"""The kinds of sources, in the order in which they are tried."""

_EXPECTED = (
    "a folder of images, a .zip of one, MNIST-style IDX files, a .npz, hf:NAME, or a built-in set (digits, shapes)"
)


def open_source(source: str, reading: Reading) -> Source:
    """Opens the source that a string names.

    Args:
        source: as for `open_dataset`.
        reading: what it is opened with.

    Raises:
        InputError: if no kind of source fits, or the one that does cannot be opened.
    """
    for kind in SOURCES:
        if kind.matches(source):
            return kind(source, reading)
    if Path(source).exists():
        raise InputError(f"{source} is not a kind of data that can be read; expected {_EXPECTED}")
    raise InputError(f"{source} does not exist; expected {_EXPECTED}")
