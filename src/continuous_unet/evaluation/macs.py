"""Multiply-accumulates, counted where they are dispatched: every solver stage counts because every convolution does.

The formulas are those of `torch.utils.flop_counter`, which counts two operations per multiply-accumulate. Its own
`FlopCounterMode` is not used: it fails on the backward pass of custom autograd functions, and knows no attention on a
CPU.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

# Work in proportion to the elements, not to a product of sizes; not counted, as nobody in the field does.
_NO_MACS = {
    "_adaptive_avg_pool2d", "_conj", "_fused_dropout", "_local_scalar_dense", "_log_softmax", "_reshape_alias",
    "_softmax", "_softmax_backward_data", "_to_copy", "_unsafe_index", "_unsafe_index_put", "_unsafe_view",
    "_weight_norm_interface", "alias", "all", "amax", "amin", "any", "arange", "argmax", "as_strided", "avg_pool2d",
    "bernoulli", "bernoulli_", "cat", "clone", "constant_pad_nd", "copy_", "cumsum", "detach", "detach_", "embedding",
    "embedding_dense_backward", "empty", "empty_like", "empty_strided", "equal", "expand", "eye", "fill_", "flip",
    "full", "full_like", "gather", "index", "index_put_", "index_select", "is_same_size", "lift_fresh",
    "linalg_vector_norm", "linspace", "max", "max_pool2d_with_indices", "mean", "min", "native_dropout",
    "native_dropout_backward", "native_group_norm", "native_group_norm_backward", "native_layer_norm",
    "native_layer_norm_backward", "new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros", "norm",
    "normal_", "ones", "ones_like", "permute", "pixel_shuffle", "pixel_unshuffle", "randint", "randn",
    "reflection_pad2d", "repeat", "replication_pad2d", "resize_", "roll", "scalar_tensor", "scatter", "scatter_add",
    "select", "select_backward", "set_", "silu_backward", "slice", "slice_backward", "sort", "split",
    "split_with_sizes", "squeeze", "stack", "std", "sum", "t", "topk", "transpose", "tril", "triu", "unbind",
    "unfold", "uniform_", "unsqueeze", "upsample_bilinear2d", "upsample_bilinear2d_backward", "upsample_nearest2d",
    "upsample_nearest2d_backward", "var", "var_mean", "view", "view_as_complex", "view_as_real", "zero_", "zeros",
    "zeros_like",
}  # fmt: skip


@dataclass(frozen=True)
class MacCount:
    """A count of one call. FLOPs are two per multiply-accumulate."""

    macs: int
    by_operation: dict[str, int] = field(default_factory=dict)
    """Multiply-accumulates by operation."""
    unknown_operations: dict[str, int] = field(default_factory=dict)
    """Calls of operations that may multiply and have no formula here."""

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return 2 * self.macs


_ATTENTION_ON_CPU = "_scaled_dot_product_flash_attention_for_cpu"  # missing from torch's registry


class _MacCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        name = packet.__name__
        free = torch.Tag.pointwise in func.tags or name in _NO_MACS or name.rstrip("_") in _NO_MACS
        if not free and packet not in flop_registry and not name.startswith(_ATTENTION_ON_CPU):
            with self:  # an operation made of others is counted by its parts
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        output = func(*args, **kwargs)
        if packet in flop_registry:
            self.flops[name] += flop_registry[packet](*args, **kwargs, out_val=output)
        elif name == _ATTENTION_ON_CPU:
            self.flops[name] += sdpa_flop_count(*(a.shape for a in args[:3]))
        elif name == _ATTENTION_ON_CPU + "_backward":
            self.flops[name] += sdpa_backward_flop_count(*(a.shape for a in args[:4]))
        elif not free:
            self.unknown[name] += 1
        return output


def count_macs(function: Callable[..., Any], *args: Any, strict: bool = False, **kwargs: Any) -> MacCount:
    """Count the multiply-accumulates of `function(*args, **kwargs)`: one forward pass, or whatever it does.

    Args:
        function: a model or any callable; a backward pass inside it is counted too.
        args: its arguments.
        strict: raise on an operation without a formula rather than report it.
        kwargs: its keyword arguments.

    Raises:
        NotImplementedError: with `strict`, naming the operations that are not known.
    """
    counter = _MacCounter()
    with counter:
        function(*args, **kwargs)
    unknown = dict(counter.unknown)
    if strict and unknown:
        raise NotImplementedError(f"no formula for the multiply-accumulates of: {', '.join(sorted(unknown))}")
    by_operation = {name: flops // 2 for name, flops in counter.flops.items()}
    return MacCount(sum(by_operation.values()), by_operation, unknown)
