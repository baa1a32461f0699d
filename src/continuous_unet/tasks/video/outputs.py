"""Writes the clips that were made: as pictures that move, or as numbers."""

import os
from pathlib import Path

import numpy as np
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import replace_file
from continuous_unet.base.packages import import_extra
from continuous_unet.data.volumes import NIFTI, Volume, is_nifti, write_volume
from continuous_unet.images.animations import clip_paths, save_clips

ARCHIVE = ".npz"


def output_paths(output: str, num_clips: int, channels: int, overwrite: bool = False) -> list[Path]:
    """Returns where `write_clips` will write clips: as `clip_paths`, or one `.npz`, or one NIfTI file.

    Raises:
        InputError: as there, for clips that a NIfTI file does not hold, and without the package that writes it.
    """
    if is_nifti(Path(output)) and not os.path.isdir(output):
        if num_clips > 1 or channels > 1:
            what = f"{num_clips} clips" if num_clips > 1 else f"a clip of {channels} channels"
            raise InputError(f"--output {output}: NIfTI holds one grey volume, not {what}; see --num, or use .npz")
        import_extra("nibabel", f"{output} cannot be written: NIfTI needs nibabel", "nifti")
    return clip_paths(output, num_clips, overwrite, (ARCHIVE, *NIFTI))


def is_picture(path: Path) -> bool:
    """Returns whether a file shows clips, in place of holding their numbers."""
    return path.suffix.lower() != ARCHIVE and not is_nifti(path)


def write_clips(clips: Tensor, paths: list[Path]) -> None:
    """Writes clips `(B, C, F, H, W)` in [0, 1].

    An archive has one array `clips`, `(B, F, H, W)` or `(B, F, H, W, C)`, float32, which `cunet train --data` reads. A
    NIfTI file has one clip as a volume, with its frames along z, and voxels of size 1.

    Raises:
        InputError: if a file cannot be written.
    """
    path = paths[0]
    if is_nifti(path):
        write_volume(Volume(clips[0, 0].float().numpy()), path)
    elif path.suffix.lower() == ARCHIVE:
        values = clips.float().permute(0, 2, 3, 4, 1).numpy()
        array = values[..., 0] if values.shape[-1] == 1 else values

        def archive(aside: Path) -> None:
            with aside.open("wb") as file:
                np.savez_compressed(file, clips=array)

        replace_file(path, archive)
    else:
        save_clips(clips, paths)
