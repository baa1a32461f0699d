"""Reads and writes photographs with all that belongs to them: transparency, colour profile, EXIF data, 16 bits.

Pillow reads 16-bit colour, and 16-bit grey with transparency, as 8 bits; 16-bit grey is kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.files import replace_file
from continuous_unet.base.results import Json
from continuous_unet.images import decode
from continuous_unet.images.resampling import resize

SUFFIXES = {
    ".bmp": "BMP",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""The format that is written, by the ending of the name."""
_WITH_ALPHA = ("PNG", "TIFF", "WEBP")
_WITH_16_BITS = ("PNG", "TIFF")
_HOLDS = {"BMP": ("dpi",), "WEBP": ("icc_profile", "exif")}
"""Metadata that a format holds, where it does not hold all."""
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
_QUALITY: dict[str, Json] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}
_RESOLUTION = (282, 283, 296)
"""EXIF tags of a TIFF that become its `dpi`."""
_STRUCTURE = {273, 284, 301, 317, 34675, *_RESOLUTION}
"""EXIF tags of a TIFF that say how its pixels are stored, and its colour profile, which is kept by itself."""
for _first, _last in ((254, 266), (277, 281), (288, 293), (320, 347), (512, 532)):
    _STRUCTURE.update(range(_first, _last + 1))
_IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_NOT_KEPT = {"xmp": "XMP data", "XML:com.adobe.xmp": "XMP data", "photoshop": "IPTC data", "comment": "comment"}
"""Metadata in Pillow's `info` that no result keeps, and its name."""


@dataclass
class Photograph:
    """An image with its metadata."""

    pixels: np.ndarray
    """`(H, W, C)`, C = 1 (grey) or 3 (RGB), uint8 or uint16, upright."""
    alpha: np.ndarray | None = None
    """`(H, W)`, uint8: 0 is transparent."""
    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    """Dots per inch, horizontally and vertically."""
    frames: int = 1
    """Frames or pages of the file, of which this is the first."""
    notes: list[str] = field(default_factory=list)
    """What could not be kept of the file, and what was decided about it."""

    @property
    def largest(self) -> int:
        """The value of white."""
        return 65535 if self.pixels.dtype == np.uint16 else 255

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.pixels.shape[0] * self.pixels.shape[1] / 1e6

    def tensor(self) -> Tensor:
        """Returns the pixels as `(C, H, W)` in [0, 1], float32."""
        values = torch.from_numpy(self.pixels.astype(np.float32) / self.largest)
        return values.permute(2, 0, 1).contiguous()

    def from_bands(self, bands: Iterable[Tensor], scale: int = 1) -> "Photograph":
        """Returns a copy with other pixels, `scale` times as large, from bands `(C, rows, W)` in [0, 1].

        Raises:
            InputError: for values that are not finite.
        """
        height, width, channels = self.pixels.shape
        pixels = np.empty((height * scale, width * scale, channels), self.pixels.dtype)
        top = 0
        for band in bands:
            if not bool(band.isfinite().all()):
                raise InputError("the model made values that are not finite; its weights are damaged")
            rows = (band.clamp(0, 1) * self.largest).round().permute(1, 2, 0).cpu().numpy()
            pixels[top : top + len(rows)] = rows.astype(self.pixels.dtype)
            top += len(rows)
        alpha = self.alpha
        if alpha is not None and scale > 1:
            large = resize(torch.from_numpy(alpha.astype(np.float32))[None, None], height * scale, width * scale)
            alpha = large[0, 0].round().clamp(0, 255).numpy().astype(np.uint8)
        return replace(self, pixels=pixels, alpha=alpha)


def read_photograph(
    file: decode.ImageFile, max_pixels: int | None = None, values: tuple[float, float] | None = None
) -> Photograph:
    """Reads a photograph, upright.

    Args:
        file: a path, the bytes of a file, or an open file.
        max_pixels: see `open_image`.
        values: the values of black and white in 32-bit images; see `value_range` if None.

    Raises:
        Unreadable: for anything that is not a whole image of allowed size. Damaged metadata is only a note.
    """
    with decode.open_image(file, max_pixels) as opened:
        frames = getattr(opened, "n_frames", 1)
        sixteen = decode.loses_depth(opened)
        exif, lost = _metadata(opened)
        image = decode.upright(opened)
        icc_profile, dpi = opened.info.get("icc_profile"), _dpi(opened)
    notes = [f"only the first of its {frames} frames was read"] if frames > 1 else []
    notes += ["its 16-bit values were read as 8 bits"] if sixteen else []
    notes += [f"left out: {', '.join(lost)}"] if lost else []
    if decode.is_deep(image):
        pixels, more = _deep_pixels(image, values)
        return Photograph(pixels, None, icc_profile, exif, dpi, frames, notes + more)
    grey, alpha = image.mode in ("1", "L", "LA", "La"), None
    if decode.has_alpha(image):
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    elif not grey and image.mode not in ("RGB", "P"):
        notes.append(f"{image.mode} was converted to RGB" + (", without its profile" if icc_profile else ""))
        icc_profile = None  # it is for the other space
    pixels = np.asarray(image.convert("L"))[..., None] if grey else np.asarray(image.convert("RGB"))
    return Photograph(pixels, alpha, icc_profile, exif, dpi, frames, notes)


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Returns the resolution of a file that has one; Pillow gives others 1, or 72 for JPEG with EXIF data."""
    dpi = image.info.get("dpi", (1, 1))
    made_up = min(dpi) <= 1 or (image.format == "JPEG" and dpi == (72, 72) and image.info.get("jfif_unit") != 1)
    return None if made_up else (float(dpi[0]), float(dpi[1]))


def _deep_pixels(image: Image.Image, values: tuple[float, float] | None) -> tuple[np.ndarray, list[str]]:
    """Returns the pixels of a grey image of more than 8 bits, `(H, W, 1)`, and notes."""
    span = decode.value_range(image) if values is None else decode.ValueRange(*values)
    unit = np.asarray(decode.normalise_mode(image, 1, span[:2]))[..., None]
    notes = []
    if not span.certain or span.black != 0:
        counted = f"its values were counted from {span.black:g} (black) to {span.white:g} (white)"
        notes.append(f"{counted}; --value-range LOW:HIGH changes this")
    if image.mode == "I" and span[:2] == (0, 255):
        return (unit * 255).round().astype(np.uint8), notes
    if image.mode == "F":
        notes.append("32-bit values were rounded to 16 bits")
    return (unit * 65535).round().astype(np.uint16), notes


def _metadata(image: Image.Image) -> tuple[bytes | None, list[str]]:
    """Returns the EXIF data of an image that is not yet decoded, as far as it can be kept, and names of the rest."""
    lost = [name for key, name in _NOT_KEPT.items() if image.info.get(key)]
    lost += ["text"] if set(getattr(image, "text", ())) - set(_NOT_KEPT) else []
    kept = Image.Exif()
    try:
        found = image.getexif()
        skipped = {decode.ORIENTATION, *(_STRUCTURE if image.format == "TIFF" else ())}  # the pixels will be upright
        tags = [tag for tag in found if tag not in skipped]
        damaged = not len(found) and bool(image.info.get("exif"))
    except Exception:  # cameras and editors write what no parser expects
        tags, damaged = [], True
    lost += ["EXIF data, which is damaged"] if damaged else []
    for tag in tags:
        try:
            one = Image.Exif()
            one[tag] = dict(found.get_ifd(tag)) if tag in _IFDS else found[tag]
            one.tobytes()
            kept[tag] = one[tag]
        except Exception:
            lost.append(f"the damaged EXIF field {ExifTags.TAGS.get(tag, tag)}")
    return (kept.tobytes() if len(kept) else None), list(dict.fromkeys(lost))


def check_fits(photograph: Photograph, path: Path, scale: int = 1) -> None:
    """Checks whether a file of this name can hold a photograph, `scale` times as large, before the work is done.

    Raises:
        InputError: naming what the format cannot hold.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path.name}: expected a name that ends in {', '.join(SUFFIXES)}")
    if photograph.alpha is not None and kind not in _WITH_ALPHA:
        raise InputError(f"{path.name} cannot hold transparency; name a .png, .tif or .webp file")
    if photograph.largest > 255 and kind not in _WITH_16_BITS:
        raise InputError(f"{path.name} cannot hold 16 bits; name a .png or .tif file")
    if photograph.largest > 255 and photograph.alpha is not None:
        raise InputError(f"{path.name}: 16-bit grey with transparency cannot be written")
    height, width = (side * scale for side in photograph.pixels.shape[:2])
    longest = _LONGEST_SIDE.get(kind)
    if longest is not None and max(height, width) > longest:
        raise InputError(
            f"{path.name}: {width}x{height} pixels, and {kind} holds at most {longest} a side; name a .png or .tif file"
        )


def write_photograph(photograph: Photograph, path: Path) -> list[str]:
    """Writes a file, of the format that its name says, so that it is absent, the old one or whole at every moment.

    Returns:
        Notes: metadata that the format cannot hold.

    Raises:
        InputError: for a format that cannot hold the image, or if it cannot be written.
    """
    check_fits(photograph, path)
    kind, pixels = SUFFIXES[path.suffix.lower()], photograph.pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if photograph.alpha is not None:
        image.putalpha(Image.fromarray(photograph.alpha))
    extras = {"icc_profile": photograph.icc_profile, "exif": photograph.exif, "dpi": photograph.dpi}
    extras = {name: value for name, value in extras.items() if value is not None}
    names = {"icc_profile": "colour profile", "exif": "EXIF data", "dpi": "resolution"}
    notes = [f"a {kind} file holds no {names[name]}" for name in extras if name not in _HOLDS.get(kind, names)]

    def write(aside: Path) -> None:
        quality = _QUALITY.get(kind, {})
        try:
            image.save(aside, format=kind, **quality, **extras)
        except OSError as error:
            if error.errno is not None:
                raise
            raise InputError(f"{path.name} cannot be written as {kind} ({first_line(error)})") from error
        except Exception as error:  # metadata that is too long, or that Pillow reads and cannot write
            if not extras:
                raise
            image.save(aside, format=kind, **quality)
            what = ", ".join(names[name] for name in extras)
            notes.append(f"left out, because the {kind} format cannot hold it: {what} ({first_line(error)})")

    replace_file(path, write)
    return notes
