"""Bytes kept for the backward pass, and the peak of what is alive during a call."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from continuous_unet.base.results import Json


@dataclass(frozen=True)
class SavedBytes:
    """Bytes that autograd kept of one call, each storage counted once."""

    activations: int
    """Bytes kept only for the backward pass, inputs included."""
    parameters: int
    """Bytes of the parameters and buffers among what was kept, which are there anyway."""


def saved_bytes(
    function: Callable[..., object], *args: object, parameters: Iterable[Tensor] = (), **kwargs: object
) -> SavedBytes:
    """Measures what autograd saves while `function(*args, **kwargs)` runs, and still holds when it returns.

    Exact, by `torch.autograd.graph.saved_tensors_hooks`. Tensors that an autograd function puts on its `ctx` as plain
    attributes escape the hooks; nothing in this project does that. Without gradients (`no_grad`) nothing is saved: 0.

    Args:
        function: a forward pass; its result is kept alive until everything is counted.
        args: its arguments.
        parameters: tensors to count apart; if `function` is a module, its own parameters and buffers are added.
        kwargs: its keyword arguments.
    """
    own = {p.untyped_storage().data_ptr() for p in parameters}
    if isinstance(function, nn.Module):
        own |= {p.untyped_storage().data_ptr() for p in (*function.parameters(), *function.buffers())}
    held: weakref.WeakSet[_Held] = weakref.WeakSet()

    def pack(tensor: Tensor) -> "_Held":
        kept = _Held(tensor.detach())  # detached, or the saved output of an operation would keep its own graph alive
        held.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        result = function(*args, **kwargs)
    sizes: dict[int, int] = {}
    for kept in held:
        storage = kept.tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    del result
    in_parameters = sum(size for pointer, size in sizes.items() if pointer in own)
    return SavedBytes(sum(sizes.values()) - in_parameters, in_parameters)


class _Held:
    """A saved tensor, in a shell that disappears when autograd releases it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _LiveBytes(TorchDispatchMode):
    """Follows the storages that operations make, from their birth to their release."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple[object, ...] = (), kwargs: Json | None = None
    ) -> object:
        before = {id(s) for s in self._storages((args, kwargs))}
        output = func(*args, **(kwargs or {}))
        for storage in self._storages(output):
            key = id(storage)
            if key not in before and key not in self._known:
                self._known.add(key)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                release = weakref.finalize(storage, self._release, key, storage.nbytes())
                release.atexit = False  # nobody reads the count when the process ends
        return output

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    @staticmethod
    def _storages(values: object) -> list[torch.UntypedStorage]:
        return [v.untyped_storage() for v in tree_leaves(values) if isinstance(v, Tensor)]


def peak_memory(
    function: Callable[..., object], *args: object, device: torch.device, **kwargs: object
) -> tuple[int, str]:
    """Returns the most bytes alive at once that `function(*args, **kwargs)` made, and the method of the measurement.

    On CUDA, the allocator's peak above what was allocated before. Elsewhere, the sizes of all tensor storages that
    operations returned and that were not released yet: exact and repeatable, without the scratch space of kernels.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function(*args, **kwargs)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, "CUDA allocator"
    tracker = _LiveBytes()
    with tracker:
        function(*args, **kwargs)
    return tracker.peak, "tensor storages"
