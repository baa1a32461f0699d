"""An AOTInductor package: the network compiled to machine code for this kind of processor, for C++ and Python.

Such a file holds compiled code, which runs when it is loaded: load only what you, or people you trust, exported.
`cunet run` does not load it.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from continuous_unet.deploy.formats import Written
from continuous_unet.deploy.network import LARGEST_TRACED_BATCH, ExportNetwork, explained, on_arrays
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.standalone.runtime import Network

FILE = "network.aoti.pt2"


def write(network: ExportNetwork, folder: Path, options: ExportOptions) -> Written:
    """Writes `network.aoti.pt2`.

    Raises:
        InputError: if a C++ compiler is missing, or the network cannot be compiled.
    """
    program = network.program()
    with explained("be compiled", "torch._inductor", advice="; is a C++ compiler installed?"):
        torch._inductor.aoti_compile_and_package(program, package_path=str(folder / FILE))
    return Written([FILE], open_aoti, {"largest_batch": LARGEST_TRACED_BATCH})


def open_aoti(path: Path, threads: int | None = None, names: Sequence[str] = ()) -> Network:
    """Opens a package that was just written here; see above for those of others."""
    return on_arrays(torch._inductor.aoti_load_package(str(path)))
