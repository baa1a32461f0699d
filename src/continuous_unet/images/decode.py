"""Image files of any mode to arrays: decoding, colour, fitting to the size of the model."""

import io
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever a file is named. Pillow knows more, and some of it runs other programs."""

LARGEST_ASPECT = 100
"""Longer side to shorter: making a line of pixels square would take memory without end."""

GREY_MODES = ("1", "L", "LA", "La", "I", "F")  # and the I;16 family


class Unreadable(Exception):
    """An image that cannot be used; the message says why, without the path."""


def load_image(file: str | Path | bytes | IO[bytes]) -> Image.Image:
    """Decode one image wholly: its first frame, turned upright by its EXIF orientation.

    Raises:
        Unreadable: for anything that is not a whole image of sane size.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            width, height = image.size
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and width * height > limit:
                raise Unreadable(f"{width}x{height} pixels, more than Pillow's limit against decompression bombs")
            if max(width, height) > LARGEST_ASPECT * min(width, height):
                raise Unreadable(f"{width}x{height} pixels, more than {LARGEST_ASPECT} times as long as wide")
            image.load()
            if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
                raise Unreadable("it has values that are not finite")
            return ImageOps.exif_transpose(image)
    except Unreadable:
        raise
    except Image.DecompressionBombError as error:
        raise Unreadable("more pixels than Pillow's limit against decompression bombs") from error
    except Image.UnidentifiedImageError as error:
        raise Unreadable(f"no image of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise Unreadable(f"{type(error).__name__}: {error}".splitlines()[0]) from error


def is_grey(image: Image.Image) -> bool:
    """Whether an image has no colour by its mode."""
    return image.mode in GREY_MODES or image.mode.startswith("I;16")


def normalise_mode(image: Image.Image, channels: int) -> Image.Image:
    """To mode L, RGB or RGBA for 1, 3 or 4 channels, or to F in [0, 1] for high-depth grey images.

    Transparency is laid over white unless 4 channels are asked for. 16-bit values are scaled from 0..65535, not
    clipped. Float images count as [0, 1], or [0, 255] or [0, 65535] if their largest value says so.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float32)
        if image.mode == "F":
            top = float(values.max()) if values.size else 1.0
            full = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
        else:
            full = 65535.0 if int(values.max()) <= 65535 else 2.0**31 - 1
        return Image.fromarray(np.clip(values / full, 0, 1), mode="F")
    transparent = image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info
    if transparent:
        rgba = image.convert("RGBA")
        if channels == 4:
            return rgba
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])


def fit_image(image: Image.Image, size: int, fit: str, offset: tuple[float, float] = (0.5, 0.5)) -> Image.Image:
    """To `size` x `size`.

    Args:
        image: mode L, RGB, RGBA or F.
        size: side of the result, pixels.
        fit: `"crop"`: the shorter side to `size`, then a crop; `"pad"`: shrunk if larger than `size`, never enlarged,
            then centred on black; `"stretch"`: both sides to `size`; `"patch"`: a piece at the image's own resolution,
            which is enlarged only if it is smaller than that.
        offset: where a crop lies, 0 to 1 of the free room in x and y.
    """
    width, height = image.size
    if fit == "stretch":
        return _resize(image, size, size)
    if fit == "pad":
        scale = min(1.0, size / max(width, height))
        image = _resize(image, max(1, round(width * scale)), max(1, round(height * scale)))
        background: Any = 0 if image.mode in ("L", "F") else (0,) * len(image.getbands())
        canvas = Image.new(image.mode, (size, size), background)
        canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
        return canvas
    scale = size / min(width, height)
    if fit == "patch":
        scale = max(1.0, scale)
    image = _resize(image, max(size, round(width * scale)), max(size, round(height * scale)))
    left = round((image.width - size) * offset[0])
    top = round((image.height - size) * offset[1])
    return image.crop((left, top, left + size, top + size))


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    # Pillow's bicubic is antialiased when it shrinks
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def to_array(image: Image.Image, channels: int) -> np.ndarray:
    """A fitted image to float32 `(C, H, W)` in [-1, 1]."""
    values: np.ndarray = np.asarray(image, dtype=np.float32)
    values = np.clip(values, 0, 1) if image.mode == "F" else values / 255
    values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    if values.shape[0] != channels:  # high-depth grey asked for in colour
        colour = np.repeat(values[:1], min(channels, 3), axis=0)
        values = np.concatenate([colour, np.ones_like(values[:1])]) if channels == 4 else colour
    return np.ascontiguousarray(values * 2 - 1)
