"""Decides which names belong to images, by one rule for folders, archives, shards and batches of files."""

from collections.abc import Mapping
from pathlib import PurePath

from PIL import features

_PORTABLE = {".pbm", ".pgm", ".pnm", ".ppm"}
SUFFIXES = {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", *_PORTABLE}
"""Endings of the files that are read."""
NOT_READ = {".avif", ".cr2", ".dng", ".heic", ".heif", ".j2k", ".jp2", ".jpx", ".jxl", ".nef", ".svg"}
"""Endings of images of other kinds, which are counted and left out."""
FORMATS = ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"]
"""What is decoded, whatever a file is named. Pillow knows more formats, and some of them run other programs."""

for _feature, _format, _endings in (("avif", "AVIF", {".avif"}), ("jpg_2000", "JPEG2000", {".j2k", ".jp2", ".jpx"})):
    if features.check(_feature):  # not in every build of Pillow
        FORMATS.append(_format)
        SUFFIXES |= _endings
        NOT_READ -= _endings


def is_hidden(name: PurePath) -> bool:
    """Returns whether a name, or a folder above it, begins with a dot, as AppleDouble files do, or is `__MACOSX`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def is_image(name: PurePath) -> bool:
    """Returns whether a name is that of an image that is read."""
    return name.suffix.lower() in SUFFIXES and not is_hidden(name)


def describe_left_out(counts: Mapping[str, int]) -> str:
    """Returns how many images are of kinds that are not read, such as "20 .heic, 5 .avif"; empty if there are none."""
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()) if suffix in NOT_READ)
