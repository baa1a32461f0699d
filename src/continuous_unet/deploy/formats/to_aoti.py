"""An AOTInductor package: the network compiled to machine code for this kind of processor, for C++ and Python.

Such a file holds compiled code, which runs when it is loaded: load only what you, or people you trust, exported.
`cunet run` does not load it.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.deploy.formats import Written
from continuous_unet.deploy.network import LARGEST_TRACED_BATCH, ExportNetwork
from continuous_unet.deploy.options import ExportOptions

FILE = "network.aoti.pt2"


def write(network: ExportNetwork, folder: Path, options: ExportOptions) -> Written:
    """Write `network.aoti.pt2`.

    Raises:
        InputError: if there is no C++ compiler, or the network cannot be compiled.
    """
    program = network.program()
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch._inductor.aoti_compile_and_package(program, package_path=str(folder / FILE))
    except Exception as error:  # of the compiler, too
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"this model cannot be compiled: {reason}; is a C++ compiler there?") from error
    return Written([FILE], open_aoti, {"largest_batch": LARGEST_TRACED_BATCH})


def open_aoti(path: Path, threads: int | None = None) -> Callable[..., np.ndarray]:
    """A package that was just written here; see above for those of others."""
    compiled = torch._inductor.aoti_load_package(str(path))

    def network(*inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return compiled(*map(torch.tensor, inputs)).numpy()

    return network
