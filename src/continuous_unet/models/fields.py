"""Acceleration fields `f(t, x, v, conditioning)` and the initial velocity `g(x)` of a dynamic block.

Every field ends in a layer or a factor that is initialised to zero, so that a new block is the identity. Residual
branches in DDPM's U-Net are initialised in the same way. All fields use SiLU by default, because a field should be
smooth.

A new field is a class here with the same constructor, and an entry in `FIELDS`.
"""

import math
from dataclasses import dataclass

import torch
from diffusers.models.activations import get_activation
from torch import Tensor, nn

from continuous_unet.models.conditioning import AdaptiveScaleShift, Conditioning, over_map, scale_and_shift
from continuous_unet.models.layers import Conv, adjoint, conv, norm, zeroed
from continuous_unet.ode import Damped, Relaxation, SplitFieldModule


@dataclass(frozen=True)
class FieldConfig:
    """The settings that every field is built from.

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
    norm_type: str = "group"
    hidden_channels: int | None = None
    """Channels between the convolutions of the field; None stands for those of the block (twice those if separable)."""
    dim: int = 2
    """Dimensions of the maps: 1, 2 or 3."""
    factorised: bool = False
    """Whether convolutions of three dimensions are one over space and one over time."""

    def conv(self, in_channels: int, out_channels: int, kernel_size: int = 3, groups: int = 1) -> Conv:
        """Returns a convolution of these maps."""
        return conv(self.dim, in_channels, out_channels, kernel_size, groups=groups, factorised=self.factorised)

    def norm(self, channels: int) -> nn.Module:
        """Returns the normalisation of a map of `channels` channels."""
        return norm(self.norm_type, channels, self.norm_num_groups, self.norm_eps)


INITIAL_DECAY = 0.5
"""Fraction of the velocity that an untrained relaxation field leaves after unit time."""


class Trunk(nn.Module):
    """Norm, activation, 3x3 convolution, norm, both clocks, activation: what fields share up to their last layer."""

    expansion = 1

    def __init__(self, config: FieldConfig, in_channels: int) -> None:
        super().__init__()
        self.out_channels = config.hidden_channels or self.expansion * config.channels
        self.norm1 = config.norm(in_channels)
        self._make_convolutions(config, in_channels)
        self.norm2 = config.norm(self.out_channels)
        self.clocks = AdaptiveScaleShift(config.emb_channels, self.out_channels, config.horizon)
        self.act = get_activation(config.act_fn)
        self.dropout = nn.Dropout(config.dropout)

    def _make_convolutions(self, config: FieldConfig, in_channels: int) -> None:
        self.conv1 = config.conv(in_channels, self.out_channels)

    def _convolve(self, h: Tensor) -> Tensor:
        return self.conv1(self.act(h))

    def forward(self, t: float | Tensor, h: Tensor, conditioning: Conditioning) -> Tensor:
        """Returns `(B, out_channels, *size)` for a map `h` `(B, in_channels, *size)`."""
        h = self._convolve(self.norm1(h))
        return self.dropout(self.act(self.clocks(t, conditioning, self.norm2(h))))


class SeparableTrunk(Trunk):
    """A `Trunk` with a 1x1 convolution to twice the width and a depthwise 3x3 one in place of the full 3x3."""

    expansion = 2

    def _make_convolutions(self, config: FieldConfig, in_channels: int) -> None:
        self.expand = config.conv(in_channels, self.out_channels, 1)
        self.depthwise = config.conv(self.out_channels, self.out_channels, groups=self.out_channels)

    def _convolve(self, h: Tensor) -> Tensor:
        return self.depthwise(self.act(self.expand(h)))


class GeneralField(nn.Module):
    """`x'' = f(t, x, v; conditioning)`, any dependence on the velocity: the form of arXiv 2310.20092."""

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config, 2 * config.channels)
        self.out = zeroed(config.conv(self.trunk.out_channels, config.channels))

    def forward(self, t: float | Tensor, x: Tensor, v: Tensor, conditioning: Conditioning) -> Tensor:
        """Returns the acceleration `(B, C, *size)` for position and velocity of that shape."""
        return self.out(self.trunk(t, torch.cat([x, v], dim=1), conditioning))


def _initial_logit(max_rate: float) -> float:
    """The value whose sigmoid is the rate that leaves `INITIAL_DECAY`, as a fraction of `max_rate`."""
    start = -math.log(INITIAL_DECAY) / max_rate
    return math.log(start / (1 - start))


class RelaxationField(SplitFieldModule):
    """`x'' = rate(t, x) (target(t, x) - v)`: one trunk, a 3x3 head for the target velocity, a 1x1 head for the rate.

    The rate is per channel and pixel, in (0, max_rate); it starts where half of the velocity is left after unit time.
    """

    trunk_type = Trunk
    target_kernel = 3

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.max_rate = config.max_rate
        self.trunk = self.trunk_type(config, config.channels)
        self.target = self._head(config, self.target_kernel)
        self.rate = self._head(config, 1)
        assert self.rate.bias is not None
        nn.init.constant_(self.rate.bias, _initial_logit(config.max_rate))

    def _head(self, config: FieldConfig, kernel_size: int) -> Conv:
        return zeroed(config.conv(self.trunk.out_channels, config.channels, kernel_size))

    def terms(self, t: float | Tensor, x: Tensor, conditioning: Conditioning) -> Relaxation:
        """Returns target velocity and rate, both `(B, C, *size)`."""
        h = self.trunk(t, x, conditioning)
        return Relaxation(self.target(h), self.max_rate * torch.sigmoid(self.rate(h)))


class SeparableRelaxationField(RelaxationField):
    """The relaxation field with separable convolutions: about a third of the multiplications at the same width."""

    trunk_type = SeparableTrunk
    target_kernel = 1


class FilterTrunk(nn.Module):
    """A 3x3 convolution `K` without normalisation, and the slope of an energy of what it finds, see `GradientField`."""

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.out_channels = config.hidden_channels or config.channels
        self.conv1 = config.conv(config.channels, self.out_channels)
        self.clocks = AdaptiveScaleShift(config.emb_channels, self.out_channels, config.horizon)
        self.act = get_activation(config.act_fn)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, t: float | Tensor, x: Tensor, conditioning: Conditioning) -> Tensor:
        """Returns `(1 + scale) act((1 + scale) K x + shift)`, `(B, out_channels, *size)`."""
        scale, shift = self.clocks.factors(t, conditioning, x.shape[0])
        slope = self.act(scale_and_shift(self.conv1(x), scale, shift))
        return self.dropout(slope + slope * over_map(scale, slope))


class GradientField(SplitFieldModule):
    """`x'' = -damping v - gain grad E(x)`, `E(x) = sum S((1 + scale) K x + shift)`: about half the parameters.

    `S` is the integral of the activation, so the force is `-gain K^T (1 + scale) act((1 + scale) K x + shift)`. `K`
    serves twice, and there is no second 3x3 convolution. Damping, in (0, max_rate), and gain are learned per channel. A
    state rolls down an energy, as in the variational networks for restoration (Kobler et al., GCPR 2017) and in
    Hamiltonian networks (Haber and Ruthotto, Inverse Problems 2017).
    """

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.max_rate = config.max_rate
        self.trunk = FilterTrunk(config)
        by_channel = (config.channels, *(1,) * config.dim)
        self.gain = nn.Parameter(torch.zeros(by_channel))
        self.rate = nn.Parameter(torch.full(by_channel, _initial_logit(config.max_rate)))

    def terms(self, t: float | Tensor, x: Tensor, conditioning: Conditioning) -> Damped:
        """Returns the force `(B, C, *size)`, and the damping `(C, 1, ...)`."""
        force = adjoint(self.trunk.conv1, self.trunk(t, x, conditioning))
        return Damped(-self.gain * force, self.max_rate * torch.sigmoid(self.rate))


INITIAL_VELOCITIES = ("features", "timestep")
"""Inputs that the initial velocity is learned from: the features, or the features and the timestep embedding."""


class InitialVelocity(nn.Module):
    """The learned `x'(0) = g(x(0))`: norm, activation, 1x1 convolution; zero at the start of training.

    With `knows_timestep`, the embedding scales and shifts the normalised features: `g(x(0); emb)`.
    """

    def __init__(self, config: FieldConfig, knows_timestep: bool = False) -> None:
        super().__init__()
        self.norm = config.norm(config.channels)
        self.act = get_activation(config.act_fn)
        self.conv = zeroed(config.conv(config.channels, config.channels, 1))
        self.scale_shift = nn.Linear(config.emb_channels, 2 * config.channels) if knows_timestep else None

    def forward(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        """Returns the velocity, of the shape of `x`, `(B, C, *size)`."""
        h = self.norm(x)
        if self.scale_shift is not None:
            h = scale_and_shift(h, *self.scale_shift(self.act(conditioning.embedding)).chunk(2, dim=1))
        return self.conv(self.act(h))


FIELDS: dict[str, type[GeneralField] | type[RelaxationField] | type[GradientField]] = {
    "general": GeneralField,
    "relaxation": RelaxationField,
    "separable": SeparableRelaxationField,
    "gradient": GradientField,
}
"""Acceleration fields by the name that `ContinuousUNet2DModel(field_type=...)` takes."""
