"""Quantisation-aware training: convolutions that round weights and activations as `cunet export --precision int8` does.

Only the computation changes: parameters keep their names and stay in floating point, so that checkpoints, averages and
the saved model are those of any run. Gradients pass the rounding as if it were not there (straight-through estimator,
Jacob et al., arXiv 1712.05877, section 3).
"""

from typing import Any

import torch
from torch import Tensor, nn

from continuous_unet.base.errors import InputError
from continuous_unet.ode import ADAPTIVE_METHODS

FLOAT_LAYERS = ("conv_in.", "conv_out.")
"""Parts of the names of weights that stay in float in int8 models; see docs/deploy.md for the measurement."""
EXACT_GRADIENTS = ("backprop", "checkpoint")
"""Gradient modes that see the exact numbers of the forward pass. The others rebuild them, and a number that is only
nearly the same may round to the next level."""
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""The scale of a tensor that is zero everywhere."""


def round_weight(weight: Tensor) -> Tensor:
    """Rounds weights `(out, in, …)` to 255 levels around zero, with one scale for each output channel."""
    scale = (weight.detach().abs().flatten(1).amax(1) / 127).clamp_min(SMALLEST_SCALE)
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, -127, 127
    )


def round_activation(x: Tensor) -> Tensor:
    """Rounds a tensor of any shape to 256 levels from its smallest to its largest value, zero among them."""
    low, high = torch.aminmax(x.detach())
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = ((high - low) / 255).clamp_min(SMALLEST_SCALE)
    return torch.fake_quantize_per_tensor_affine(x, scale, (-low / scale).round().to(torch.int32), 0, 255)


class RoundedConv2d(nn.Conv2d):
    """A convolution from 8-bit weights and activations to 8-bit activations, simulated in float32.

    ONNX Runtime and XNNPACK round the output of a convolution, too; OpenVINO does not. The range of an activation is
    that of the batch at hand; an exported network has fixed ranges, from its calibration.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the rounded convolution of `(B, C, H, W)`."""
        rounded = self._conv_forward(round_activation(x.float()), round_weight(self.weight.float()), self.bias)
        return round_activation(rounded.float())


def round_convolutions(model: Any) -> None:
    """Makes a U-Net compute as its int8 export will.

    A continuous U-Net whose gradients are not exact in every bit (see `EXACT_GRADIENTS`) is set to `checkpoint`.

    Raises:
        InputError: for a solver that chooses its own steps, which cannot be exported.
    """
    if hasattr(model, "set_solver"):
        if model.config.method in ADAPTIVE_METHODS:
            raise InputError(
                f"quantization_aware is for what can be exported, and method={model.config.method!r} chooses its steps "
                "while it runs; start from a model with a method of fixed steps"
            )
        if model.config.gradient not in EXACT_GRADIENTS:
            model.set_solver(gradient="checkpoint")
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and not any(part in f"{name}." for part in FLOAT_LAYERS):
            module.__class__ = RoundedConv2d  # keeps the parameters, their names and all settings
