"""Multiply-accumulates, counted where they are dispatched: every solver stage counts because every convolution does.

The formulas are those of `torch.utils.flop_counter`, which counts two operations per multiply-accumulate. Its own
`FlopCounterMode` is not used: it fails on the backward pass of custom autograd functions, knows no attention on a CPU,
and counts the gradient of a grouped convolution's weight as if it had no groups (a depthwise one over 8 channels: 9
forwards instead of 2).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from continuous_unet.base.errors import InputError

# Work in proportion to the elements, not to a product of sizes; not counted, as nobody in the field does. PyTorch's own
# (`aten`) only: an extension's operation of the same name may do anything. Elementwise operations carry a tag instead.
_NO_MACS = {
    "_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward", "_assert_async", "_batch_norm_no_update",
    "_batch_norm_with_update", "_conj", "_fused_dropout", "_fused_rms_norm", "_fused_rms_norm_backward",
    "_local_scalar_dense", "_log_softmax", "_log_softmax_backward_data", "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training", "_prelu_kernel",
    "_prelu_kernel_backward", "_reshape_alias", "_safe_softmax", "_softmax", "_softmax_backward_data", "_to_copy",
    "_unsafe_index", "_unsafe_index_put", "_unsafe_view", "_weight_norm_interface", "_weight_norm_interface_backward",
    "alias", "all", "amax", "amin", "aminmax", "any", "arange", "argmax", "argmin", "argsort", "as_strided",
    "avg_pool2d", "avg_pool2d_backward", "batch_norm_backward", "bernoulli", "bernoulli_", "cat", "clone", "col2im",
    "constant_pad_nd", "copy_", "cudnn_batch_norm", "cudnn_batch_norm_backward", "cumprod", "cumsum", "detach",
    "detach_", "diag_embed", "diagonal", "embedding", "embedding_dense_backward", "empty", "empty_like",
    "empty_strided", "equal", "expand", "eye", "fill_", "flip", "full", "full_like", "gather", "glu", "glu_backward",
    "hardtanh_backward", "huber_loss", "huber_loss_backward", "im2col", "index", "index_put_", "index_select",
    "is_same_size", "lift_fresh", "linalg_vector_norm", "linspace", "logcumsumexp", "logsumexp", "masked_fill",
    "masked_scatter", "masked_select", "max", "max_pool2d_with_indices", "max_pool2d_with_indices_backward", "mean",
    "median", "min", "miopen_batch_norm", "miopen_batch_norm_backward", "mse_loss", "mse_loss_backward",
    "native_batch_norm", "native_batch_norm_backward", "native_dropout", "native_dropout_backward",
    "native_group_norm", "native_group_norm_backward", "native_layer_norm", "native_layer_norm_backward", "new_empty",
    "new_empty_strided", "new_full", "new_ones", "new_zeros", "nll_loss2d_backward", "nll_loss2d_forward",
    "nll_loss_backward", "nll_loss_forward", "nonzero", "norm", "normal_", "ones", "ones_like", "permute",
    "pixel_shuffle", "pixel_unshuffle", "prod", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like",
    "randperm", "reflection_pad2d", "reflection_pad2d_backward", "repeat", "replication_pad2d",
    "replication_pad2d_backward", "resize_", "roll", "scalar_tensor", "scatter", "scatter_add", "scatter_reduce",
    "select", "select_backward", "set_", "silu_backward", "slice", "slice_backward", "smooth_l1_loss",
    "smooth_l1_loss_backward", "softplus_backward", "sort", "split", "split_with_sizes", "squeeze", "stack", "std",
    "sum", "t", "topk", "transpose", "tril", "triu", "unbind", "unfold", "uniform_", "unsafe_split", "unsqueeze",
    "upsample_bicubic2d", "upsample_bicubic2d_backward", "upsample_bilinear2d", "upsample_bilinear2d_backward",
    "upsample_linear1d", "upsample_linear1d_backward", "upsample_nearest1d", "upsample_nearest1d_backward",
    "upsample_nearest2d", "upsample_nearest2d_backward", "upsample_nearest3d", "upsample_nearest3d_backward",
    "upsample_trilinear3d", "upsample_trilinear3d_backward", "var", "var_mean", "view", "view_as_complex",
    "view_as_real", "where", "zero_", "zeros", "zeros_like",
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


def _convolution_backward(
    grad_output: Tensor,
    sample: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: list[bool],
) -> int:
    """As many as the forward pass for each of the two gradients that are wanted: of the input and of the weight."""
    forward = conv_flop_count(list(sample.shape), list(weight.shape), list(grad_output.shape), transposed)
    return forward * sum(output_mask[:2])


aten = torch.ops.aten
# Floating-point operations from an operation's arguments, where torch's registry has nothing or not the right thing.
_FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(
        grad.shape, q.shape, k.shape, v.shape
    ),
    aten.convolution_backward: _convolution_backward,
    aten.mv: lambda matrix, vector: 2 * matrix.numel(),
    aten.addmv: lambda start, matrix, vector, **_: 2 * matrix.numel(),
    aten.dot: lambda a, b: 2 * a.numel(),
    aten.vdot: lambda a, b: 2 * a.numel(),
}


def _name(packet: Any) -> str:
    """`convolution` for PyTorch's own operations, `library.operation` for others."""
    namespace = packet._qualified_op_name.split("::")[0]
    return packet.__name__ if namespace == "aten" else f"{namespace}.{packet.__name__}"


def _is_free(func: Any, name: str) -> bool:
    if torch.Tag.pointwise in func.tags or name.startswith("profiler."):
        return True
    return name in _NO_MACS or name.rstrip("_") in _NO_MACS  # `add_` works in place, and costs what `add` does


class _MacCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        name = _name(packet)
        free = _is_free(func, name)
        counted = packet in _FORMULAS or packet in flop_registry
        if not free and not counted:
            with self:  # an operation made of others is counted by its parts; inference mode passes many of these
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        output = func(*args, **kwargs)
        if packet in _FORMULAS:
            self.flops[name] += _FORMULAS[packet](*args, **kwargs)
        elif counted:
            self.flops[name] += flop_registry[packet](*args, **kwargs, out_val=output)
        elif not free:
            self.unknown[name] += 1
        return output


def count_macs(function: Callable[..., Any], *args: Any, strict: bool = False, **kwargs: Any) -> MacCount:
    """Count the multiply-accumulates of `function(*args, **kwargs)`: one forward pass, or whatever it does.

    Padding counts as data, biases do not count. The backward pass of fused attention counts 5 products where the
    forward pass counts 2: it computes the scores again. Control flow operators (`torch.cond`) and `flex_attention`
    cannot be counted and raise torch's `NotImplementedError`.

    Args:
        function: a model or any callable; a backward pass inside it is counted too.
        args: its arguments.
        strict: raise on an operation without a formula rather than report it.
        kwargs: its keyword arguments.

    Raises:
        InputError: if `function` is not callable.
        NotImplementedError: with `strict`, naming the operations that are not known.
    """
    if not callable(function):
        raise InputError(f"cannot count {type(function).__name__}: expected a model or another callable")
    counter = _MacCounter()
    with counter:
        function(*args, **kwargs)
    unknown = dict(counter.unknown)
    if strict and unknown:
        raise NotImplementedError(f"no formula for the multiply-accumulates of: {', '.join(sorted(unknown))}")
    by_operation = {name: flops // 2 for name, flops in counter.flops.items()}
    return MacCount(sum(by_operation.values()), by_operation, unknown)
