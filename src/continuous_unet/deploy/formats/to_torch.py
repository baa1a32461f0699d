"""A program of `torch.export`, for PyTorch without our code: C++, `torch.compile`, and AOTInductor packages.

Such a file may hold pickles, which torch unpickles when it loads it: load only what you, or people you trust, exported.
`cunet run` does not load it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from continuous_unet.deploy.formats import Written
from continuous_unet.deploy.network import LARGEST_TRACED_BATCH, ExportNetwork, on_arrays
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.standalone.runtime import Network

FILE = "network.pt2"


def write(network: ExportNetwork, folder: Path, options: ExportOptions) -> Written:
    """Writes `network.pt2`."""
    program = network.program()
    program.example_inputs = None  # they would be pickled
    for node in program.graph.nodes:
        for name in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):  # they name folders
            node.meta.pop(name, None)
    torch.export.save(program, folder / FILE)
    calls = (str(node.target) for node in program.graph.nodes if node.op == "call_function")
    facts = {"operators": dict(Counter(calls).most_common()), "largest_batch": LARGEST_TRACED_BATCH}
    return Written([FILE], open_torch, facts)


def open_torch(path: Path, threads: int | None = None, names: Sequence[str] = ()) -> Network:
    """Opens a program that was just written here; see above for those of others."""
    return on_arrays(torch.export.load(path).module())
