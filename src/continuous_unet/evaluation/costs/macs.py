"""Multiply-accumulates, counted where they are dispatched: every solver stage counts because every convolution does.

The formulas are those of `torch.utils.flop_counter`, which counts two operations per multiply-accumulate. Its own
`FlopCounterMode` is not used: it fails on the backward pass of custom autograd functions, knows no attention on a CPU,
and counts the gradient of a grouped convolution's weight as if it had no groups (a depthwise one over 8 channels: 9
forwards instead of 2).
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from continuous_unet.base.errors import InputError

# Families of PyTorch's own operations (`aten`) whose work is proportional to the number of elements. Like everybody in
# the field, we do not count it. Most others of that kind are known by their tags or their arguments: see `_is_free`.
# Tags are missing on these. Everything else might multiply matrices, and is reported unless it has a formula.
_FREE = re.compile(
    r"""
    new_\w+ | \w+_like | (fill|zero|copy|set|resize|normal|uniform|bernoulli)_? | _to_copy | clone | detach_
    | _local_scalar_dense | equal | is_same_size | _assert_async | where | masked_fill | norm
    | cat | stack | repeat | flip | roll | tri[lu] | diag_embed | unfold\w* | im2col | col2im | pixel_(un)?shuffle
    | \w*(index|gather|scatter|select|slice|split)\w* | _unsafe_view | embedding(_dense_backward)?
    | constant_pad_nd | (reflection|replication)_pad\dd\w* | upsample_\w+ | \w*pool\dd\w*
    | arg\w+ | sort | topk | nonzero | median | max | min | aminmax | (log)?cum(sum|prod|sumexp)
    | \w*(batch|group|layer|rms|weight)_norm\w* | \w*softmax\w* | (native|_fused)_dropout\w* | \w*_loss\w*
    | (glu|_prelu_kernel|hardtanh|softplus|silu)\w*
    """,
    re.VERBOSE,
)


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


def _convolution_backward(grad_output: Tensor, sample: Tensor, weight: Tensor, *rest: Any) -> int:
    """Counts the forward pass once for each of the two gradients that are wanted, of the input and of the weight.

    `rest` is bias_sizes, stride, padding, dilation, transposed, output_padding, groups and output_mask.
    """
    *_, transposed, _, _, output_mask = rest
    forward = conv_flop_count(list(sample.shape), list(weight.shape), list(grad_output.shape), transposed)
    return forward * sum(output_mask[:2])


aten = torch.ops.aten
# Floating-point operations from an operation's arguments, where torch's registry has nothing or not the right thing.
_FORMULAS: dict[OpOverloadPacket, Callable[..., int]] = {
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


def _name(packet: OpOverloadPacket) -> str:
    """`convolution` for PyTorch's own operations, `library.operation` for others."""
    namespace = packet._qualified_op_name.split("::")[0]
    return packet.__name__ if namespace == "aten" else f"{namespace}.{packet.__name__}"


def _is_free(func: OpOverload) -> bool:
    """Whether an operation cannot multiply matrices: it works element by element, reduces, views, or only makes."""
    if func.namespace != "aten":  # an operation of the same name in an extension may do anything
        return func.namespace == "profiler"
    if func.is_view or not {torch.Tag.pointwise, torch.Tag.reduction}.isdisjoint(func.tags):
        return True
    takes_tensors = any("Tensor" in str(argument.type) for argument in func._schema.arguments)
    return not takes_tensors or _FREE.fullmatch(func.overloadpacket.__name__) is not None


class _MacCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        name = _name(packet)
        free = _is_free(func)
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


def count_macs(function: Callable[..., object], *args: object, strict: bool = False, **kwargs: object) -> MacCount:
    """Counts the multiply-accumulates of `function(*args, **kwargs)`: one forward pass, or whatever it does.

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
