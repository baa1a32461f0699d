"""A training step as one CUDA graph, which the GPU replays without being told each operation."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from continuous_unet.base.devices import on_side_stream
from continuous_unet.base.errors import first_line

WARM_UP = 3
"""The number of steps that are taken one operation at a time before the graph is made: libraries choose their
algorithms in them, and the optimizer makes its state."""
Compute = Callable[[Mapping[str, Tensor]], Tensor]


class CapturedStep:
    """Takes a step of the same operations on other inputs, by a CUDA graph where that is possible.

    Args:
        compute: takes a step, given tensors of the same names and shapes each time; returns a tensor. It must not
            depend on anything else that changes outside the GPU.
        say: told in one sentence if there can be no graph; the steps are taken without it then.
    """

    def __init__(self, compute: Compute, say: Callable[[str], None]) -> None:
        self.compute, self.say = compute, say
        self.count = 0
        self.inputs: dict[str, Tensor] = {}
        self.result = torch.empty(0)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.failed = False

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Takes a step and returns its result, which the next step may overwrite."""
        self.count += 1
        if self.failed:
            return self.compute(inputs)
        if self.count <= WARM_UP:
            return self._warm_up(inputs)
        if self.graph is None:
            try:
                self._capture(inputs)
            except Exception as error:  # whatever a capture does not allow; nothing has been computed
                self.failed, self.graph = True, None
                torch.cuda.synchronize()
                self.say(f"training steps are taken without a CUDA graph ({first_line(error)})")
                return self.compute(inputs)
        for name, tensor in inputs.items():
            self.inputs[name].copy_(tensor)
        assert self.graph is not None
        self.graph.replay()
        return self.result

    def _warm_up(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Takes a step on another stream, as a capture does."""
        return on_side_stream(lambda: self.compute(inputs))

    def _capture(self, inputs: Mapping[str, Tensor]) -> None:
        self.inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        # other threads, such as that which pins the memory of batches, may go on
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.result = self.compute(self.inputs)
        self.graph = graph
