"""Acceleration fields `f(t, x, v, emb)` and the initial velocity `g(x)` of a dynamic block.

Every field ends in a layer initialised to zero, so that a new block is the identity (as residual branches are
initialised in DDPM's U-Net). All use SiLU by default: a field should be smooth.

A new field is a class here with the same constructor, and an entry in `FIELDS`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.activations import get_activation
from torch import Tensor, nn

from continuous_unet.models.conditioning import AdaptiveScaleShift
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
    initial_decay: float = 0.5
    """Share of the velocity that an untrained relaxation field leaves after unit time."""
    norm_type: str = "group"
    hidden_channels: int | None = None
    """Channels between the convolutions of the field; those of the block (twice those if separable) if None."""


class PixelNorm(nn.Module):
    """Each pixel's channels to zero mean and unit variance, then a learned scale and shift.

    Unlike a group's, the statistics are those of one place: a pixel of the result depends on its surroundings and not
    on the rest of the image, which restoration wants, where photographs are cut into tiles.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)`, normalised over C."""
        by_pixel = x.permute(0, 2, 3, 1)
        return nn.functional.layer_norm(by_pixel, self.weight.shape, self.weight, self.bias, self.eps).permute(
            0, 3, 1, 2
        )


NORM_TYPES = ("group", "pixel", "none")
"""Normalisation inside fields: over groups of channels of the whole image, over the channels of each pixel, or none."""


def make_norm(config: FieldConfig, channels: int) -> nn.Module:
    """The normalisation of a map of so many channels."""
    if config.norm_type == "none":
        return nn.Identity()
    if config.norm_type == "pixel":
        return PixelNorm(channels, config.norm_eps)
    return nn.GroupNorm(config.norm_num_groups, channels, eps=config.norm_eps)


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
        hidden = config.hidden_channels or config.channels
        self.out_channels = hidden
        self.norm1 = make_norm(config, in_channels)
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.norm2 = make_norm(config, hidden)
        self.clocks = AdaptiveScaleShift(config.emb_channels, hidden, config.horizon)
        self.act = get_activation(config.act_fn)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, t: float | Tensor, h: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(self.act(self.norm1(h)))
        h = self.act(self.clocks(t, emb, self.norm2(h)))
        return self.dropout(h)


class _SeparableTrunk(nn.Module):
    """As `_FieldTrunk`, with a 1x1 convolution to twice the width and a depthwise 3x3 one in place of the full 3x3."""

    expansion = 2

    def __init__(self, config: FieldConfig, in_channels: int) -> None:
        super().__init__()
        wide = config.hidden_channels or self.expansion * config.channels
        self.out_channels = wide
        self.norm1 = make_norm(config, in_channels)
        self.expand = nn.Conv2d(in_channels, wide, 1)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.norm2 = make_norm(config, wide)
        self.clocks = AdaptiveScaleShift(config.emb_channels, wide, config.horizon)
        self.act = get_activation(config.act_fn)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, t: float | Tensor, h: Tensor, emb: Tensor) -> Tensor:
        h = self.depthwise(self.act(self.expand(self.norm1(h))))
        h = self.act(self.clocks(t, emb, self.norm2(h)))
        return self.dropout(h)


class GeneralField(nn.Module):
    """`x'' = f(t, x, v; emb)`, any dependence on the velocity: the form of the paper."""

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.trunk = _FieldTrunk(config, 2 * config.channels)
        self.out = zeroed(nn.Conv2d(self.trunk.out_channels, config.channels, 3, padding=1))

    def forward(self, t: float | Tensor, x: Tensor, v: Tensor, emb: Tensor) -> Tensor:
        """Acceleration `(B, C, H, W)` from position and velocity of that shape and `emb` `(B, E)`."""
        return self.out(self.trunk(t, torch.cat([x, v], dim=1), emb))


class RelaxationField(SplitFieldModule):
    """`x'' = rate(t, x) (target(t, x) - v)`: one trunk, a 3x3 head for the target velocity, a 1x1 head for the rate.

    The rate is per channel and pixel, in (0, max_rate); it starts where `initial_decay` of the velocity is left after
    unit time.
    """

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.max_rate = config.max_rate
        self.trunk, self.target = self._trunk_and_target(config)
        self.rate = zeroed(nn.Conv2d(self.trunk.out_channels, config.channels, 1))
        start = -math.log(config.initial_decay) / config.max_rate
        nn.init.constant_(self.rate.bias, math.log(start / (1 - start)))  # type: ignore[arg-type]

    def _trunk_and_target(self, config: FieldConfig) -> tuple[Any, nn.Conv2d]:
        trunk = _FieldTrunk(config, config.channels)
        return trunk, zeroed(nn.Conv2d(trunk.out_channels, config.channels, 3, padding=1))

    def terms(self, t: float | Tensor, x: Tensor, emb: Tensor) -> Relaxation:  # type: ignore[override]
        """Target velocity and rate, both `(B, C, H, W)`."""
        h = self.trunk(t, x, emb)
        return Relaxation(self.target(h), self.max_rate * torch.sigmoid(self.rate(h)))


class SeparableRelaxationField(RelaxationField):
    """The relaxation field with separable convolutions: about a third of the multiplications at the same width."""

    def _trunk_and_target(self, config: FieldConfig) -> tuple[Any, nn.Conv2d]:
        trunk = _SeparableTrunk(config, config.channels)
        return trunk, zeroed(nn.Conv2d(trunk.out_channels, config.channels, 1))


class FirstOrderField(nn.Module):
    """`z' = f(t, z; emb)` on the concatenated state `z = (x, v)`: nothing ties `x'` to `v`.

    This is what second-order neural ODEs become when a general library integrates their doubled state; it is here to be
    compared with, see `FirstOrderBlock`.
    """

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        doubled = replace(config, channels=2 * config.channels)
        self.trunk = _FieldTrunk(doubled, doubled.channels)
        self.out = zeroed(nn.Conv2d(self.trunk.out_channels, doubled.channels, 3, padding=1))

    def forward(self, t: float | Tensor, z: Tensor, emb: Tensor) -> Tensor:
        """Rate of change `(B, 2C, H, W)` of a state of that shape; `emb` is `(B, E)`."""
        return self.out(self.trunk(t, z, emb))


class ResidualField(nn.Module):
    """The plain update of the weight-tied control: the relaxation field without its rate."""

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.trunk = _FieldTrunk(config, config.channels)
        self.out = zeroed(nn.Conv2d(self.trunk.out_channels, config.channels, 3, padding=1))

    def forward(self, t: float | Tensor, x: Tensor, emb: Tensor) -> Tensor:
        """Update `(B, C, H, W)` of features of that shape; `emb` is `(B, E)`."""
        return self.out(self.trunk(t, x, emb))


class InitialVelocity(nn.Module):
    """The learned `x'(0) = g(x(0))`: norm, activation, 1x1 convolution; zero at the start of training.

    With `knows_timestep`, the timestep embedding scales and shifts the normalised features: `g(x(0); emb)`. With
    `carried_channels`, the last velocity of another block is added, through a 1x1 convolution that is zero at the start
    of training too.
    """

    def __init__(self, config: FieldConfig, knows_timestep: bool = False, carried_channels: int | None = None) -> None:
        super().__init__()
        self.norm = make_norm(config, config.channels)
        self.act = get_activation(config.act_fn)
        self.conv = zeroed(nn.Conv2d(config.channels, config.channels, 1))
        self.scale_shift = nn.Linear(config.emb_channels, 2 * config.channels) if knows_timestep else None
        self.carry = None if carried_channels is None else zeroed(nn.Conv2d(carried_channels, config.channels, 1))

    def forward(self, x: Tensor, emb: Tensor, carried: Tensor | None = None) -> Tensor:
        """Velocity of the shape of `x`, `(B, C, H, W)`; `carried` is `(B, carried_channels, H, W)`."""
        h = self.norm(x)
        if self.scale_shift is not None:
            scale, shift = self.scale_shift(self.act(emb))[:, :, None, None].chunk(2, dim=1)
            h = torch.addcmul(h + shift, h, scale)
        v = self.conv(self.act(h))
        if self.carry is not None and carried is not None:
            v = v + self.carry(carried.to(x.dtype))
        return v


FIELDS: dict[str, type[GeneralField] | type[RelaxationField]] = {
    "general": GeneralField,
    "relaxation": RelaxationField,
    "separable": SeparableRelaxationField,
}
"""Acceleration fields by the name that `ContinuousUNet2DModel(field_type=...)` takes."""
