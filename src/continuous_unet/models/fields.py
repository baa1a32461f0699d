"""Acceleration fields `f(t, x, v, emb)` and the initial velocity `g(x)` of a dynamic block.

Every field ends in a layer initialised to zero, so that a new block is the identity (as residual branches are
initialised in DDPM's U-Net). All use SiLU by default: a field should be smooth.

A new field is a class here with the same constructor, and an entry in `FIELDS`.
"""

import math
from dataclasses import dataclass

import torch
from diffusers.models.activations import get_activation
from torch import Tensor, nn

from continuous_unet.models.embeddings import AdaptiveScaleShift
from continuous_unet.ode import Relaxation, SplitFieldModule


@dataclass(frozen=True)
class FieldConfig:
    """What every field is built from.

    `max_rate` (1/time) bounds the relaxation rate: at a step of length one it keeps `exp(-rate)` above 0.3, so that the
    inverse, which divides by it, stays accurate.
    """

    channels: int
    emb_channels: int
    horizon: float
    norm_num_groups: int
    norm_eps: float = 1e-5
    act_fn: str = "silu"
    dropout: float = 0.0
    max_rate: float = 1.2


def zeroed(module: nn.Conv2d) -> nn.Conv2d:
    """Set weight and bias to zero."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class _FieldTrunk(nn.Module):
    """Norm, activation, 3x3 convolution, norm, both clocks, activation: what fields share up to their last layer."""

    def __init__(self, config: FieldConfig, in_channels: int) -> None:
        super().__init__()
        groups, eps, channels = config.norm_num_groups, config.norm_eps, config.channels
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels, eps=eps)
        self.clocks = AdaptiveScaleShift(config.emb_channels, channels, config.horizon)
        self.act = get_activation(config.act_fn)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, t: float | Tensor, h: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(self.act(self.norm1(h)))
        h = self.act(self.clocks(t, emb, self.norm2(h)))
        return self.dropout(h)


class GeneralField(nn.Module):
    """`x'' = f(t, x, v; emb)`, any dependence on the velocity: the form of the paper."""

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.trunk = _FieldTrunk(config, 2 * config.channels)
        self.out = zeroed(nn.Conv2d(config.channels, config.channels, 3, padding=1))

    def forward(self, t: float | Tensor, x: Tensor, v: Tensor, emb: Tensor) -> Tensor:
        """Acceleration `(B, C, H, W)` from position and velocity of that shape and `emb` `(B, E)`."""
        return self.out(self.trunk(t, torch.cat([x, v], dim=1), emb))


class RelaxationField(SplitFieldModule):
    """`x'' = rate(t, x) (target(t, x) - v)`: one trunk, a 3x3 head for the target velocity, a 1x1 head for the rate.

    The rate is per channel and pixel, in (0, max_rate); it starts at log 2, half of the velocity left after unit time.
    """

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.max_rate = config.max_rate
        self.trunk = _FieldTrunk(config, config.channels)
        self.target = zeroed(nn.Conv2d(config.channels, config.channels, 3, padding=1))
        self.rate = zeroed(nn.Conv2d(config.channels, config.channels, 1))
        start = math.log(2) / config.max_rate
        nn.init.constant_(self.rate.bias, math.log(start / (1 - start)))  # type: ignore[arg-type]

    def terms(self, t: float | Tensor, x: Tensor, emb: Tensor) -> Relaxation:  # type: ignore[override]
        """Target velocity and rate, both `(B, C, H, W)`."""
        h = self.trunk(t, x, emb)
        return Relaxation(self.target(h), self.max_rate * torch.sigmoid(self.rate(h)))


class InitialVelocity(nn.Module):
    """The learned `x'(0) = g(x(0))`: norm, activation, 1x1 convolution; zero at the start of training."""

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_num_groups, config.channels, eps=config.norm_eps)
        self.act = get_activation(config.act_fn)
        self.conv = zeroed(nn.Conv2d(config.channels, config.channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Velocity of the shape of `x`, `(B, C, H, W)`."""
        return self.conv(self.act(self.norm(x)))


FIELDS: dict[str, type[GeneralField] | type[RelaxationField]] = {
    "general": GeneralField,
    "relaxation": RelaxationField,
}
"""Acceleration fields by the name that `ContinuousUNet2DModel(field_type=...)` takes."""
