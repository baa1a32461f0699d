"""Writes clips as GIF or MP4."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from continuous_unet.base.files import check_outputs, replace_file
from continuous_unet.base.results import Json
from continuous_unet.images.films import ENDING, check_mp4, write_mp4
from continuous_unet.images.grids import make_grid, names_of, to_pil


def clip_paths(
    output: str | os.PathLike[str], num_clips: int, overwrite: bool = False, others: Sequence[str] = ()
) -> list[Path]:
    """Returns where `save_clips` will write clips: one `.gif` or `.mp4` file, or `0000.gif`, `0001.gif`, … in a folder.

    `others` are endings of files that the caller writes.

    Raises:
        InputError: as `check_outputs`, and for MP4 without the package that writes it.
    """
    names = names_of(num_clips, ".gif")
    paths = check_outputs(output, names, [".gif", ENDING, *others], overwrite=overwrite)
    if paths[0].suffix.lower() == ENDING:
        check_mp4()
    return paths


def save_clips(clips: Tensor, paths: list[Path], frames_per_second: float = 8.0) -> None:
    """Writes clips `(B, C, F, H, W)` in [0, 1] to a file each, or all of them side by side to one file.

    Raises:
        InputError: if a file cannot be written.
    """
    if len(paths) == len(clips):
        films = [to_pil(clip.transpose(0, 1)) for clip in clips]
    else:
        films = [[make_grid(frame) for frame in clips.unbind(2)]]
    for film, path in zip(films, paths, strict=True):
        (write_mp4 if path.suffix.lower() == ENDING else write_gif)(film, path, frames_per_second)


def write_gif(film: list[Image.Image], path: Path, frames_per_second: float = 8.0) -> None:
    """Writes frames as a GIF that repeats, so that at every moment the file is absent, the old one, or whole.

    Raises:
        InputError: if it cannot be written.
    """
    first, *others = film
    how: Json = {"format": "GIF", "save_all": True, "append_images": others, "loop": 0, "optimize": False}
    replace_file(path, lambda aside: first.save(aside, duration=round(1000 / frames_per_second), **how))
