"""The options of `cunet data check`, and functions that read the texts of data options. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, option

if TYPE_CHECKING:
    from typing_extensions import Self

SPLITS = ("train", "test")
FITS = ("crop", "pad", "stretch", "patch")
CAPTIONS = ("auto", "metadata", "txt", "filename", "column")
"""Where captions of images come from: metadata files or else text files beside the images; one of the two; the names
of the images; a column of a Hugging Face data set, which `auto` takes as well."""
BUILT_IN_CLIPS = ("moving-digits", "bouncing-shapes")
"""Sets of clips that come with the package."""
BUILT_IN = ("digits", "shapes", "scenes")
"""Data sets that come with the package. They take precedence over folders of the same names."""


@dataclass
class DataOptions(Options):
    """Options of `cunet data check`."""

    data: str = option(
        "",
        "images to look at: a folder, .zip, IDX files, .npz, hf:NAME, or a built-in set (digits, shapes, scenes)",
        positional=True,
        required=True,
        metavar="DATA",
    )
    split: Literal["train", "test"] = option("train", "part of the data to look at, if it has several")
    value_range: str | None = option(
        None,
        "LOW:HIGH, the values of black and white in 16-bit, 32-bit and float grey images, for example 0:65535 "
        "(default: decided for the data set from their type and their smallest and largest value)",
    )
    max_pixels: int | None = option(None, "refuse images with more pixels than this (default: 89478485)", at_least=1)

    def validate(self) -> "Self":
        super().validate()
        parse_value_range(self.value_range)
        return self


def parse_value_range(value: str | tuple[float, float] | None) -> tuple[float, float] | None:
    """Returns black and white of `LOW:HIGH`, or of a pair; None for None.

    Raises:
        InputError: unless both are finite numbers, black below white.
    """
    if value is None:
        return None
    try:
        low, high = (float(part) for part in (value.split(":") if isinstance(value, str) else value))
    except ValueError:
        low = high = 0.0
    if not -float("inf") < low < high < float("inf"):
        raise InputError(
            f"--value-range {value} must be LOW:HIGH, two finite numbers of which LOW is the smaller, such as 0:4095"
        )
    return low, high


def parse_image_size(value: int | str | tuple[int, int] | list[int] | None) -> tuple[int, int] | None:
    """Returns height and width in pixels of `64`, `"64"`, `"48x64"` (height first) or a pair; None for None.

    Raises:
        InputError: for anything else.
    """
    if value is None:
        return None
    sides = str(value).lower().split("x") if isinstance(value, (int, str)) else list(value)
    try:
        height, width = (int(side) for side in (sides * 2 if len(sides) == 1 else sides))
    except (ValueError, TypeError):
        height = width = 0
    if height < 1 or width < 1:
        raise InputError(f"image_size={value!r} must be one side in pixels, such as 64, or HEIGHTxWIDTH, such as 48x64")
    return height, width
