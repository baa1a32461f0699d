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
from continuous_unet.data.sources.scenes import ScenesSource
from continuous_unet.data.sources.shapes import ShapesSource

__all__ = ["SOURCES", "FileSource", "Reading", "Source", "open_source"]

SOURCES: list[type[Source]] = [
    DigitsSource,
    ShapesSource,
    ScenesSource,
    NpzSource,
    ZipSource,
    IdxSource,
    HubSource,
    FolderSource,
]
"""The kinds of sources, in the order in which they are tried."""

_EXPECTED = (
    "a folder of images, a .zip of one, MNIST-style IDX files, a .npz, hf:NAME, or a built-in set (digits, shapes, "
    "scenes)"
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
            opened = kind(source, reading)
            if reading.captions is not None and opened.captions is None:
                raise InputError(_no_captions(source, opened, reading.captions))
            return opened
    if Path(source).exists():
        raise InputError(f"{source} is not a kind of data that can be read; expected {_EXPECTED}")
    raise InputError(f"{source} does not exist; expected {_EXPECTED}")


def _no_captions(source: str, opened: Source, mode: str) -> str:
    """Returns why a source without captions cannot be used, and what to do."""
    if opened.files:
        looked = "no text file beside its images" + ("" if mode == "txt" else " and no metadata.jsonl or metadata.csv")
        return f"{source} has no captions: {looked}; add some, or take the names of the images with --captions filename"
    if opened.kind == "hub":
        return f"{source} has no captions; name the column that holds them with --caption-column"
    return f"{source} has no captions; train on a folder, an archive, hf:NAME, or the built-in set scenes"
