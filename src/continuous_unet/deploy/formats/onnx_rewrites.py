"""Rules that make the exported graph cheaper; what it computes changes in the last digits at most.

Elementwise operations over whole maps cost memory traffic, and runtimes do not merge the ones below. Our networks have
each of these patterns at every solver step. Bodies of loops are left as they are.
"""

import onnx
import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleSet, pattern


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with the rules applied."""
    graph = ir.from_proto(model)
    RULES.apply_to_model(graph)
    return ir.to_proto(graph)


def _norm_then_scale_shift(op, h, weight, bias, scale, shift):  # type: ignore[no-untyped-def]
    normal = op.Add(op.Mul(h, weight), bias)
    return op.Add(op.Add(normal, shift), op.Mul(normal, scale))


def _one_scale_shift(op, h, weight, bias, scale, shift, **_):  # type: ignore[no-untyped-def]
    """Replaces five operations over the map by two: the norm's own scale and shift go into those of the conditions."""
    one = op.initializer(ir.tensor([1.0], dtype=ir.DataType.FLOAT), name=f"{h.name}_one")
    factor = op.Add(scale, one)
    return op.Add(op.Mul(h, op.Mul(weight, factor)), op.Add(op.Mul(bias, factor), shift))


def _two_factors(op, x, first, second):  # type: ignore[no-untyped-def]
    return op.Mul(op.Mul(x, first), second)


def _is_scalar(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and value.const_value.size == 1


def _both_scalars(context, first, second, **_):  # type: ignore[no-untyped-def]
    return _is_scalar(first) and _is_scalar(second)


def _one_factor(op, x, first, second, **_):  # type: ignore[no-untyped-def]
    product = first.const_value.numpy() * second.const_value.numpy()
    return op.Mul(x, op.initializer(ir.tensor(product), name=f"{x.name}_factor"))


RULES = RewriteRuleSet(
    [
        pattern.RewriteRule(_norm_then_scale_shift, _one_scale_shift),
        pattern.RewriteRule(_two_factors, _one_factor, _both_scalars),
    ],
)
