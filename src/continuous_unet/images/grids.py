"""Writes tensors in [0, 1] as PNG files and grids."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import check_outputs, replace_file
from continuous_unet.base.results import Json

METADATA_KEY = "continuous-unet"
"""The key of the text in a PNG that says how its image was made; `runtime.py` writes the same."""


MOST_FILES = 1_000_000
"""The largest number of images that one call makes."""
MOST_PIXELS = 100_000_000
"""The largest grid, in pixels: Pillow does not open pictures of twice as many."""


def to_pil(images: Tensor) -> list[Image.Image]:
    """Converts images `(B, C, H, W)` in [0, 1], C = 1, 3 or 4, to PIL images of mode L, RGB or RGBA."""
    pixels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(p[:, :, 0] if p.shape[2] == 1 else p) for p in pixels]


def to_output(images: Tensor, output_type: str) -> Any:
    """Converts images or clips `(B, C, *size)` in [0, 1] to what diffusers calls `"pil"`, `"np"` or `"pt"`.

    diffusers' own conversion fails for grey images of one pixel in height or width.
    """
    if output_type == "pil":
        return to_pil(images) if images.ndim == 4 else [to_pil(clip.transpose(0, 1)) for clip in images]
    return images.cpu().movedim(1, -1).numpy() if output_type == "np" else images


def make_grid(
    images: Tensor,
    columns: int | None = None,
    padding: int = 2,
    background: float = 0.25,
    scale: int | None = None,
    row_labels: Sequence[str] | None = None,
) -> Image.Image:
    """Makes one picture of all images, in rows.

    Args:
        images: `(B, C, H, W)` in [0, 1].
        columns: images in a row; a square arrangement if None.
        padding: pixels between images.
        background: grey level of the padding, in [0, 1].
        scale: number of times that each pixel is repeated; if None, images become about 48 pixels large.
        row_labels: a text to the left of each row; none if None.
    """
    scale = scale or _usual_scale(images.shape)
    images = images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    num, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    shape = (channels, rows * (height + padding) + padding, columns * (width + padding) + padding)
    canvas = torch.full(shape, background)
    for i, image in enumerate(images.detach().float().cpu()):
        top = padding + i // columns * (height + padding)
        left = padding + i % columns * (width + padding)
        canvas[:, top : top + height, left : left + width] = image
    picture = to_pil(canvas[None])[0]
    return picture if row_labels is None else _labelled(picture, row_labels, padding, background)


def _labelled(picture: Image.Image, labels: Sequence[str], padding: int, background: float) -> Image.Image:
    """Returns a picture of rows of equal height with a column of texts to the left, in Pillow's own font."""
    height = (picture.height - padding) / len(labels)
    font = ImageFont.load_default(size=max(9, min(16, height - 2)))
    left = 2 * padding + math.ceil(max(font.getlength(label) for label in labels))
    bands = len(picture.getbands())
    grey = tuple([round(255 * background)] * min(bands, 3) + [255] * (bands > 3))
    wide = Image.new(picture.mode, (left + picture.width, picture.height), grey)
    wide.paste(picture, (left, 0))
    pen = ImageDraw.Draw(wide)
    for row, label in enumerate(labels):
        pen.text((padding, padding + (row + 0.5) * height), label, fill=(255,) * bands, font=font, anchor="lm")
    return wide


def _usual_scale(shape: Sequence[int]) -> int:
    """Returns the number of times that the pixels of an image `(..., H, W)` are repeated in a grid: to about 48."""
    return max(1, round(48 / max(shape[-2:])))


def names_of(number: int, ending: str) -> list[str]:
    """Returns names for the files of a folder: `0000.png`, `0001.png`, …

    Raises:
        InputError: for more than are made at a time.
    """
    if number > MOST_FILES:
        raise InputError(
            f"{number:,} files are to be made, and at most {MOST_FILES:,} at a time; make fewer with --num"
        )
    digits = max(4, len(str(number - 1)))
    return [f"{k:0{digits}d}{ending}" for k in range(number)]


def check_grid(number: int, shape: Sequence[int]) -> None:
    """Raises InputError if a grid of that many images `(C, H, W)` would be too large to be opened again."""
    pixels = number * _usual_scale(shape) ** 2 * math.prod(shape[-2:])
    if pixels > MOST_PIXELS:
        raise InputError(
            f"a grid of {number:,} images would have {pixels / 1e6:,.0f} million pixels, and at most "
            f"{MOST_PIXELS // 10**6} million are written; name a folder as --output, or make fewer with --num"
        )


def output_paths(output: str | os.PathLike[str], num_images: int, overwrite: bool = False) -> list[Path]:
    """Returns where `save_images` will write images: one `.png` file, or `0000.png`, `0001.png`, … in a folder.

    Raises:
        InputError: as `check_outputs`, and for more images than are made at a time.
    """
    return check_outputs(output, names_of(num_images, ".png"), [".png"], overwrite=overwrite)


def save_images(images: Tensor, paths: list[Path], made_by: Sequence[Json] | None = None) -> None:
    """Writes images `(B, C, H, W)` in [0, 1] to a file each, or all of them as a grid to one file.

    Args:
        images: the images.
        paths: one for each image, or a single one.
        made_by: what each file says about how it was made, see `write_png`.
    """
    pictures = to_pil(images) if len(paths) == len(images) else [make_grid(images)]
    for number, (picture, path) in enumerate(zip(pictures, paths, strict=True)):
        write_png(picture, path, None if made_by is None else made_by[number])


def write_png(picture: Image.Image, path: Path, made_by: Json | None = None) -> None:
    """Writes a PNG so that at every moment the file is absent, the old one, or whole.

    Args:
        picture: the image.
        path: the file.
        made_by: how the image was made, which becomes a text of the PNG under the key `METADATA_KEY`, as JSON. Entries
            that are None are left out.

    Raises:
        InputError: if it cannot be written.
    """
    text = PngInfo()
    if made_by is not None:
        known = {name: value for name, value in made_by.items() if value is not None}
        text.add_text(METADATA_KEY, json.dumps(known, ensure_ascii=False))
    replace_file(path, lambda aside: picture.save(aside, format="PNG", pnginfo=text))
