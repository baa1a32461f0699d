"""Photographs from files and back, with what belongs to them: transparency, colour profile, EXIF data, 16 bits.

Pillow reads 16-bit colour as 8 bits; 16-bit grey is kept.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import replace_file
from continuous_unet.images.decode import load_image, normalise_mode
from continuous_unet.images.resampling import resize

SUFFIXES = {
    ".bmp": "BMP", ".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
"""What is written, by the ending of the name."""
_WITH_ALPHA = ("PNG", "TIFF", "WEBP")
_WITH_16_BITS = ("PNG", "TIFF")
_QUALITY: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}
_ORIENTATION = 0x0112


@dataclass
class Photograph:
    """An image and what belongs to it."""

    pixels: np.ndarray
    """`(H, W, C)`, C = 1 (grey) or 3 (RGB), uint8 or uint16, upright."""
    alpha: np.ndarray | None = None
    """`(H, W)`, uint8: 0 is transparent."""
    icc_profile: bytes | None = None
    exif: bytes | None = None
    notes: list[str] = field(default_factory=list)
    """What of the file could not be kept."""

    @property
    def largest(self) -> int:
        """The value of white."""
        return 65535 if self.pixels.dtype == np.uint16 else 255

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.pixels.shape[0] * self.pixels.shape[1] / 1e6

    def tensor(self) -> Tensor:
        """`(C, H, W)` in [0, 1], float32."""
        values = torch.from_numpy(self.pixels.astype(np.float32) / self.largest)
        return values.permute(2, 0, 1).contiguous()

    def from_bands(self, bands: Any, scale: int = 1) -> "Photograph":
        """The same with other pixels, put together from bands `(C, rows, W)` in [0, 1] and `scale` times as large."""
        height, width, channels = self.pixels.shape
        pixels = np.empty((height * scale, width * scale, channels), self.pixels.dtype)
        top = 0
        for band in bands:
            if not bool(band.isfinite().all()):
                raise InputError("the model made values that are not finite; its weights are spoilt")
            rows = (band.clamp(0, 1) * self.largest).round().permute(1, 2, 0).cpu().numpy()
            pixels[top : top + len(rows)] = rows.astype(self.pixels.dtype)
            top += len(rows)
        alpha = self.alpha
        if alpha is not None and scale > 1:
            large = resize(torch.from_numpy(alpha.astype(np.float32))[None, None], height * scale, width * scale)
            alpha = large[0, 0].round().clamp(0, 255).numpy().astype(np.uint8)
        return replace(self, pixels=pixels, alpha=alpha)


def read_photograph(path: str | Path) -> Photograph:
    """Read an image file of any mode, turned upright.

    Raises:
        Unreadable: for anything that is not a whole image of sane size.
    """
    image = load_image(Path(path))
    notes: list[str] = []
    exif = image.getexif()
    exif.pop(_ORIENTATION, None)  # the pixels are upright now
    icc_profile = image.info.get("icc_profile")
    alpha = None
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(normalise_mode(image, 1))
        if image.mode == "F":
            notes.append("32-bit values were rounded to 16 bits")
        pixels = (values[..., None] * 65535).round().astype(np.uint16)
    else:
        if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
            grey = image.mode in ("LA", "La", "L")
            both = image.convert("RGBA")
            alpha = np.asarray(both.getchannel("A"))
            image = both.convert("RGB").convert("L") if grey else both.convert("RGB")
        elif image.mode in ("1", "L"):
            image = image.convert("L")
        else:
            if image.mode not in ("RGB", "P"):
                notes.append(f"{image.mode} was converted to RGB" + (", without its profile" if icc_profile else ""))
                icc_profile = None  # it is for the other space
            image = image.convert("RGB")
        pixels = np.asarray(image)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return Photograph(pixels, alpha, icc_profile, exif.tobytes() if len(exif) else None, notes)


def write_photograph(photograph: Photograph, path: Path) -> None:
    """Write a file, of the format that its name says, so that it is absent, the old one or whole at every moment.

    Raises:
        InputError: for a format that cannot hold the image, or if it cannot be written.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path.name}: expected a name that ends in {', '.join(SUFFIXES)}")
    if photograph.alpha is not None and kind not in _WITH_ALPHA:
        raise InputError(f"{path.name} cannot hold transparency; name a .png, .tif or .webp file")
    pixels = photograph.pixels
    if pixels.dtype == np.uint16 and kind not in _WITH_16_BITS:
        raise InputError(f"{path.name} cannot hold 16 bits; name a .png or .tif file")
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if photograph.alpha is not None:
        if pixels.dtype == np.uint16:
            raise InputError(f"{path.name}: 16-bit grey with transparency cannot be written")
        image.putalpha(Image.fromarray(photograph.alpha))
    extras = {"icc_profile": photograph.icc_profile, "exif": photograph.exif}
    options = {k: v for k, v in extras.items() if v is not None} | _QUALITY.get(kind, {})
    replace_file(path, lambda aside: image.save(aside, format=kind, **options))
