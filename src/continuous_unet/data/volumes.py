"""Volumes: arrays of three dimensions with the spacing of their voxels, from NumPy archives and NIfTI files."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.files import replace_file
from continuous_unet.base.packages import import_extra
from continuous_unet.data.archives import open_archive

NIFTI = (".nii", ".nii.gz")
MOST_VOXELS = 2**29
"""The largest number of voxels of a NIfTI volume that is read; a `.npz` has no limit."""


@dataclass(frozen=True)
class Volume:
    """A volume, and how large its voxels are."""

    values: np.ndarray
    """`(D, H, W)`, float32. In a NIfTI file, these are its axes z, y and x."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """The size of a voxel along these axes, in the unit of the file, which is usually millimetres."""
    affine: np.ndarray | None = None
    """Where a NIfTI file says that its voxels lie, `(4, 4)`."""

    def __post_init__(self) -> None:
        check_volume(self.values, "the volume")

    def with_values(self, values: np.ndarray) -> "Volume":
        """Returns other values in the same place; raises InputError if they have another shape."""
        if values.shape != self.values.shape:
            raise InputError(f"the values have shape {values.shape}; expected that of the volume, {self.values.shape}")
        return replace(self, values=values.astype(np.float32))


def check_volume(values: np.ndarray, what: str) -> None:
    """Raises InputError, in one line, for an array that is not a volume, and for values that are not finite."""
    if values.ndim != 3 or 0 in values.shape:
        raise InputError(f"{what} has shape {values.shape}; expected three dimensions (D, H, W), none of them 0")
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise InputError(f"{what} has {wrong} value(s) that are not finite (NaN or infinite); replace them first")


def is_nifti(path: Path) -> bool:
    """Returns whether this is the name of a NIfTI file."""
    return path.name.lower().endswith(NIFTI)


def read_volume(path: str | os.PathLike) -> Volume:
    """Reads a volume.

    Args:
        path: `.npz` with an array `volume` (D, H, W) and, if known, its `spacing` (3 numbers); or `.nii` or `.nii.gz`,
            which needs the extra `nifti`.

    Raises:
        InputError: for a file that cannot be read, arrays of other dimensions, and values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected a .npz with an array named volume, or a NIfTI file")
    return _read_nifti(path) if is_nifti(path) else _read_archive(path)


def _read_archive(path: Path) -> Volume:
    with open_archive(path) as archive:
        if "volume" not in archive:
            raise InputError(f"{path} holds {', '.join(archive) or 'nothing'}; expected an array named volume")
        values, spacing = archive["volume"], archive.get("spacing", np.ones(3))
    if values.dtype.kind not in "buif":
        raise InputError(f"{path} has a volume of type {values.dtype}; expected numbers")
    check_volume(values, f"the volume of {path}")
    if spacing.shape != (3,) or spacing.dtype.kind not in "uif" or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"{path} has spacing {spacing}; expected three numbers above 0")
    first, second, third = map(float, spacing)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    return Volume(values, (first, second, third))


def _read_nifti(path: Path) -> Volume:
    nibabel: Any = import_extra("nibabel", f"{path} cannot be read: NIfTI needs nibabel", "nifti")
    try:
        image = nibabel.load(path)
        shape = image.shape
        if len(shape) == 3 and np.prod(shape, dtype=np.int64) > MOST_VOXELS:
            raise InputError(
                f"{path} has {np.prod(shape, dtype=np.int64):,} voxels; at most {MOST_VOXELS:,} are read: cut it into "
                "smaller volumes"
            )
        if len(shape) != 3:
            raise InputError(f"the volume of {path} has shape {shape}; expected three dimensions, (x, y, z)")
        values = np.asarray(image.get_fdata(dtype=np.float32)).transpose()
        first, second, third = (float(size) for size in image.header.get_zooms()[:3])
        affine = np.asarray(image.affine)
    except InputError:
        raise
    except Exception as error:  # nibabel raises many kinds of errors for damaged files
        raise InputError(f"{path} cannot be read as NIfTI ({first_line(error)})") from error
    check_volume(values, f"the volume of {path}")
    return Volume(np.ascontiguousarray(values), (third, second, first), affine)


def check_ending(target: Path) -> None:
    """Raises InputError for the name of a file that volumes are not written to, and for NIfTI without nibabel."""
    if not is_nifti(target) and target.suffix.lower() != ".npz":
        raise InputError(f"{target}: expected a name that ends in .npz, .nii or .nii.gz")
    if is_nifti(target):
        import_extra("nibabel", f"{target} cannot be written: NIfTI needs nibabel", "nifti")


def write_volume(volume: Volume, path: str | os.PathLike) -> None:
    """Writes a volume with its spacing, to `.npz`, or to `.nii` or `.nii.gz`; the file appears whole or not at all.

    Raises:
        InputError: for another ending, without nibabel for NIfTI, and if the file cannot be written.
    """
    target = Path(path)
    check_ending(target)
    if is_nifti(target):
        import nibabel

        affine = np.diag([*volume.spacing[::-1], 1.0]) if volume.affine is None else volume.affine
        image = nibabel.Nifti1Image(volume.values.transpose(), affine)
        image.header.set_zooms(volume.spacing[::-1])
        ending = next(ending for ending in reversed(NIFTI) if target.name.lower().endswith(ending))

        def write(aside: Path) -> None:
            named = aside.with_name(aside.name + ending)  # nibabel goes by the ending
            try:
                nibabel.save(image, named)
                named.replace(aside)
            finally:
                named.unlink(missing_ok=True)  # it still exists if something went wrong

        replace_file(target, write)
    else:

        def archive(aside: Path) -> None:
            with aside.open("wb") as file:
                np.savez_compressed(file, volume=volume.values, spacing=np.array(volume.spacing))

        replace_file(target, archive)
