"""NumPy archives from anyone: no pickle is opened, and whatever is wrong with one is said in one line."""

import contextlib
import os
import zipfile
from collections.abc import Iterator

import numpy as np
from numpy.lib.npyio import NpzFile

from continuous_unet.base.errors import InputError, first_line


@contextlib.contextmanager
def open_archive(path: str | os.PathLike) -> Iterator[NpzFile]:
    """Opens a `.npz` file. Arrays are read inside, where damage is raised as an InputError.

    Raises:
        InputError: for a file that is missing, damaged, or not an archive, and for arrays of Python objects.
    """
    try:
        if os.path.isfile(path) and not zipfile.is_zipfile(path):
            raise InputError(f"{path} is not a NumPy archive (.npz), or is cut off")
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except InputError:
        raise
    except Exception as error:  # damaged archives raise zlib, struct and other errors
        objects = "allow_pickle" in str(error)
        reason = "it holds Python objects, which are not read; save arrays of numbers" if objects else first_line(error)
        raise InputError(f"{path} cannot be read as a NumPy archive ({reason})") from error
