"""ExecuTorch with XNNPACK, for phones and boards: one `.pte` file."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from continuous_unet.base.results import Json
from continuous_unet.deploy.formats import Written
from continuous_unet.deploy.network import ExportNetwork, explained
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.quantization import quantize_pt2e
from continuous_unet.deploy.standalone.runtime import Network, import_needed

FILE = "network.pte"


def write(network: ExportNetwork, folder: Path, options: ExportOptions) -> Written:
    """Writes `network.pte`; operators that XNNPACK leaves run in ExecuTorch's portable kernels, which are slow."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = network.program()
    with explained("be lowered to ExecuTorch"):
        if options.precision == "int8":
            program = network.program(quantize_pt2e(program, network.calibration))
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        delegation = count_delegated(edge.exported_program())
        lowered = edge.to_executorch()
    (folder / FILE).write_bytes(lowered.buffer)
    return Written([FILE], open_executorch, {"delegation": {"backend": "xnnpack", **delegation}})


def count_delegated(program: Any) -> Json:
    """Returns the number of each operator that the backend took or left, and the number of subgraphs that it took."""
    delegated: Counter[str] = Counter()
    left: Counter[str] = Counter()
    pieces = 0
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is torch.ops.higher_order.executorch_call_delegate:
            pieces += 1
            lowered = getattr(program.graph_module, node.args[0].name)
            inner = lowered.original_module.graph.nodes
            delegated.update(_name(n.target) for n in inner if n.op == "call_function")
        elif "getitem" not in str(node.target):
            left[_name(node.target)] += 1
    return {"subgraphs": pieces, "delegated": dict(delegated.most_common()), "undelegated": dict(left.most_common())}


def _name(target: object) -> str:
    return str(getattr(target, "_name", target)).removeprefix("aten::")


def open_executorch(path: Path, threads: int | None = None, names: Sequence[str] = ()) -> Network:
    """Opens a network in ExecuTorch's runtime for Python; `threads` and `names` have no effect."""
    logging.getLogger("executorch").setLevel(logging.ERROR)
    runtime = import_needed("executorch.runtime", "executorch").Runtime.get()
    method = runtime.load_program(path).load_method("forward")

    def network(*inputs: np.ndarray) -> np.ndarray:
        return method.execute([torch.tensor(a) for a in inputs])[0].numpy().copy()

    return network
