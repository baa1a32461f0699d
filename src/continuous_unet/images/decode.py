"""Reads image files, by one rule for decoding, orientation, value range, colour and size."""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.images.names import FORMATS
from continuous_unet.images.ranges import to_model_range

MAX_PIXELS = 89_478_485
"""The largest image that is decoded unless a caller raises the limit: Pillow's own against decompression bombs."""

LARGEST_ASPECT = 100
"""Largest ratio of the longer side to the shorter one. A line of pixels made square would take too much memory."""

GREY_MODES = ("1", "L", "LA", "La", "I", "F")  # and the I;16 family
ALPHA_MODES = ("LA", "La", "RGBA", "RGBa", "PA")
ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""
ImageFile = str | Path | bytes | IO[bytes]
"""A path, the bytes of a file, or an open file."""
_bomb_check = threading.Lock()


class Unreadable(Exception):
    """An image that cannot be used; the message says why, without the path."""


class ValueRange(NamedTuple):
    """The values that stand for black and for white in a high-depth grey image."""

    black: float
    white: float
    certain: bool = True
    """False if no usual range fits, so that the smallest and largest value of the image were taken."""


@contextlib.contextmanager
def open_image(file: ImageFile, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """Opens an image file and checks its size before anything is decoded.

    Args:
        file: a path, the bytes of a file, or an open file.
        max_pixels: refuse images with more pixels; `MAX_PIXELS` if None.

    Raises:
        Unreadable: for anything that is not an image of allowed size, also if that shows only inside the `with` block.
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    too_large = f"more than the limit of {limit}; raise it with --max-pixels"
    try:
        with _pillow_limit(limit):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is checked below
                opened = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)
            with opened as image:
                width, height = image.size
                if width * height > limit:
                    raise Unreadable(f"{width}x{height} pixels, {too_large}")
                if max(width, height) > LARGEST_ASPECT * min(width, height):
                    raise Unreadable(f"{width}x{height} pixels, more than {LARGEST_ASPECT} times as long as wide")
                yield image
    except (Unreadable, InputError):
        raise
    except Image.DecompressionBombError as error:
        raise Unreadable(f"it has {too_large}") from error
    except FileNotFoundError as error:
        raise Unreadable("the file does not exist") from error
    except Image.UnidentifiedImageError as error:
        raise Unreadable(f"no image of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise Unreadable(f"{type(error).__name__}: {first_line(error)}") from error


@contextlib.contextmanager
def _pillow_limit(limit: int) -> Iterator[None]:
    """Inside this context, Pillow's own limit, which belongs to the whole process, is at least this one."""
    if limit <= MAX_PIXELS:
        yield
        return
    with _bomb_check:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def load_image(file: ImageFile, max_pixels: int | None = None) -> Image.Image:
    """Decodes one image wholly: its first frame, turned upright by its EXIF orientation.

    Arguments and errors are those of `open_image`. `info["loses_depth"]` of the image has the value of `loses_depth`.
    """
    with open_image(file, max_pixels) as opened:
        lost = loses_depth(opened)
        image = upright(opened)
        image.info["loses_depth"] = lost
        return image


def loses_depth(opened: Image.Image) -> bool:
    """Returns whether Pillow will reduce 16 bits per channel to 8 when it decodes this image."""
    return not is_deep(opened) and any(";16" in str(tile[3]) for tile in getattr(opened, "tile", ()))


def upright(image: Image.Image) -> Image.Image:
    """Returns a decoded copy, turned upright by its EXIF orientation; metadata that Pillow cannot parse is ignored.

    Raises:
        Unreadable: for values that are not finite.
    """
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # cameras and editors write what no parser expects
        turn = 1
    image.load()
    if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        raise Unreadable("it has values that are not finite")
    turned = image.copy()
    for name in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):  # so that it is not turned again
        turned.info.pop(name, None)
    turned.getexif()[ORIENTATION] = turn if turn in range(2, 9) else 1
    ImageOps.exif_transpose(turned, in_place=True)
    return turned


def is_grey(image: Image.Image) -> bool:
    """Returns whether an image has no colour by its mode."""
    return image.mode in GREY_MODES or is_deep(image)


def is_deep(image: Image.Image) -> bool:
    """Returns whether an image is grey with 16 or 32 bits per pixel."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def has_alpha(image: Image.Image) -> bool:
    """Returns whether an image has transparency."""
    return image.mode in ALPHA_MODES or "transparency" in image.info


def value_range(image: Image.Image) -> ValueRange:
    """Returns the range of a high-depth grey image; see `range_of_values`."""
    low, high = image.getextrema() if image.width and image.height else (0, 0)
    return range_of_values(image.mode, float(low), float(high))  # type: ignore[arg-type]  # one band


def range_of_values(mode: str, low: float, high: float) -> ValueRange:
    """Returns the range that values of one type are counted from, by their smallest and largest value.

    16-bit images count from 0 to 65535. Wider integers count to 255 or 65535, and floats to 1, 255 or 65535, if the
    largest value lies between a sixteenth of that and that; a resampler's overshoot of a tenth is allowed for floats.
    Floats that reach below that overshoot count from -1 to 1 if they fit into it. Everything else has no usual range.

    Args:
        mode: a Pillow mode: `"F"`, `"I"` or one of the `"I;16"` family.
        low: the smallest value, of one image or of all images of a data set.
        high: the largest value.
    """
    if mode.startswith("I;16"):
        return ValueRange(0, 65535)
    tolerance = 0.1 if mode == "F" else 0.0
    for white in (1, 255, 65535) if mode == "F" else (255, 65535):
        fits = -tolerance * white <= low and high <= (1 + tolerance) * white
        if fits and (white == 1 or high >= white / 16 or (white == 255 and mode == "I")):
            return ValueRange(0, white)
    if mode == "F" and low >= -1.1 and high <= 1.1:
        return ValueRange(-1, 1)
    low = min(low, 0.0)
    return ValueRange(low, max(high, low + 1), certain=False)


def normalise_mode(image: Image.Image, channels: int, values: tuple[float, float] | None = None) -> Image.Image:
    """Converts to mode L, RGB or RGBA for 1, 3 or 4 channels, or to F in [0, 1] for high-depth grey images.

    Transparency is laid over white unless 4 channels are asked for.

    Args:
        image: of any mode.
        channels: 1, 3 or 4.
        values: black and white of high-depth images; `value_range` decides for this image alone if None.
    """
    if is_deep(image):
        black, white = (values or value_range(image))[:2]
        pixels = np.asarray(image, dtype=np.float32)
        return Image.fromarray(np.clip((pixels - black) / (white - black), 0, 1))
    if has_alpha(image):
        rgba = image.convert("RGBA")
        if channels == 4:
            return rgba
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])


def fit_image(
    image: Image.Image, size: int | tuple[int, int], fit: str, offset: tuple[float, float] = (0.5, 0.5)
) -> Image.Image:
    """Returns an image of a given size.

    Args:
        image: mode L, RGB, RGBA or F.
        size: height and width of the result in pixels; an int stands for both.
        fit: `"crop"` scales the image until it just covers the size, then crops it. `"pad"` shrinks it if it is too
            large, never enlarges it, and centres it on black. `"stretch"` scales each side separately, whatever the
            aspect ratio. `"patch"` cuts a piece at the image's own resolution, and enlarges only images that are too
            small for that.
        offset: where a crop lies, 0 to 1 of the free room in x and y.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if fit == "stretch":
        return _resize(image, width, height)
    scales = width / image.width, height / image.height
    if fit == "pad":
        scale = min(1.0, *scales)
        image = _resize(image, max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        background: Any = 0 if image.mode in ("L", "F") else (0,) * len(image.getbands())
        canvas = Image.new(image.mode, (width, height), background)
        canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        return canvas
    scale = max(*scales, 1.0) if fit == "patch" else max(scales)
    image = _resize(image, max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    left = round((image.width - width) * offset[0])
    top = round((image.height - height) * offset[1])
    return image.crop((left, top, left + width, top + height))


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    # Pillow's bicubic is antialiased when it shrinks
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def to_array(image: Image.Image, channels: int) -> np.ndarray:
    """Returns a fitted image as float32 `(C, H, W)` in [-1, 1]."""
    values: np.ndarray = np.asarray(image, dtype=np.float32)
    values = np.clip(values, 0, 1) if image.mode == "F" else values / 255
    values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    if values.shape[0] != channels:  # high-depth grey asked for in colour
        colour = np.repeat(values[:1], min(channels, 3), axis=0)
        values = np.concatenate([colour, np.ones_like(values[:1])]) if channels == 4 else colour
    return np.ascontiguousarray(to_model_range(values))
