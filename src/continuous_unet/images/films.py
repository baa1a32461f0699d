"""Reads and writes MP4 with PyAV, an optional package (the extra `video`)."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.files import replace_file
from continuous_unet.base.packages import import_extra

ENDING = ".mp4"
CODECS = ("libx264", "mpeg4")
"""Codecs to write with, the first one that this build of PyAV has."""


def read_mp4(path: Path, most_frames: int) -> list[Image.Image]:
    """Returns the frames of the first video stream of an MP4 file, as RGB images.

    Raises:
        InputError: without PyAV, and for a file that cannot be read, has no frames, or has too many.
    """
    av: Any = import_extra("av", f"the clip {path} cannot be read: MP4 needs PyAV", "video")
    images: list[Image.Image] = []
    try:
        with av.open(str(path), format="mp4") as film:  # no other format: playlists would name other files
            if not film.streams.video:
                raise InputError(f"the clip {path} has no video stream; expected one")
            for frame in film.decode(video=0):
                if len(images) == most_frames:
                    raise InputError(f"the clip {path} cannot be read: it has more than {most_frames} frames")
                images.append(Image.fromarray(frame.to_ndarray(format="rgb24")))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the clip {path} cannot be read: {first_line(error)}") from error
    if not images:
        raise InputError(f"the clip {path} has no frames; expected at least one")
    return images


def check_mp4() -> None:
    """Raises InputError if MP4 cannot be written here, so that nobody waits for clips in vain."""
    import_extra("av", "writing MP4 needs PyAV", "video")


def write_mp4(film: Sequence[Image.Image], path: Path, frames_per_second: float = 8.0) -> None:
    """Writes frames as MP4 (H.264), so that at every moment the file is absent, the old one, or whole.

    The format has even sides only: pixels of frames with an odd side are doubled.

    Raises:
        InputError: without PyAV, and if the file cannot be written.
    """
    av: Any = import_extra("av", "writing MP4 needs PyAV", "video")
    frames = [np.asarray(image.convert("RGB")) for image in film]
    if any(side % 2 for side in frames[0].shape[:2]):
        frames = [frame.repeat(2, axis=0).repeat(2, axis=1) for frame in frames]

    def write(aside: Path) -> None:
        with av.open(str(aside), mode="w", format="mp4") as target:
            name = next((name for name in CODECS if name in av.codecs_available), CODECS[-1])
            stream = target.add_stream(name, rate=Fraction(frames_per_second).limit_denominator(1000))
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = "yuv420p"  # which every player reads
            if name == CODECS[0]:
                stream.options = {"crf": "12"}
            for frame in frames:
                target.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            target.mux(stream.encode())

    try:
        replace_file(path, write)
    except av.error.FFmpegError as error:
        raise InputError(f"{path} cannot be written as MP4: {first_line(error)}; write a .gif instead") from error
