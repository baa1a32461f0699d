"""Damped waves and heat, which mix all positions of a map in closed form; they stand where attention would.

Attention compares every position with every other one. Here each channel is a membrane instead, which is set in motion
and read after one unit of time. In cosine waves, the eigenfunctions of the Laplacian with reflecting edges, the motion
has a closed form, so no solver is needed.
"""

import contextlib
import functools
import math
from typing import TYPE_CHECKING

import torch
from diffusers.models.activations import get_activation
from torch import Tensor, nn

from continuous_unet.models.conditioning import Conditioning, over_map
from continuous_unet.models.layers import conv, norm, zeroed

if TYPE_CHECKING:
    from continuous_unet.models.config import UNetConfig

CLOSE = 1e-2
"""Below this, the functions of `propagators` are taken from their series, whose error is then below 1e-8."""


class SpectralMixing(nn.Module):
    """What waves and heat share: sources, cosine transforms, a gate, and a layer that starts at zero.

    Args:
        config: settings of the U-Net.
        width: channels C of the map.
        dim: dimensions of the map: 1, 2 or 3.
    """

    num_rates: int
    """Numbers of a channel that the timestep modulates."""

    def __init__(self, config: "UNetConfig", width: int, dim: int) -> None:
        super().__init__()
        self.norm = norm(config.norm_type, width, config.norm_num_groups, config.norm_eps)
        self.position = conv(dim, width, width, groups=width)
        self.gate = conv(dim, width, width, kernel_size=1)
        self.act = get_activation("silu")
        # one number per channel that the timestep changes, which it does not at first
        self.rates = zeroed(nn.Linear(config.emb_channels, self.num_rates * width))
        self.to_out = zeroed(conv(dim, width, width, kernel_size=1))

    def forward(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        """Returns a map `(B, C, *size)` plus what the motion adds to it, which is nothing in a new model."""
        h = self.norm(x)
        rates = self.rates(self.act(conditioning.embedding)).float().chunk(self.num_rates, dim=1)
        moved = self._move(self.sources(h), *(over_map(rate, h) for rate in rates))
        return x + self.to_out(moved.to(h.dtype) * self.act(self.gate(h)))

    def sources(self, h: Tensor) -> list[Tensor]:
        """Returns what the motion starts from, maps of the shape of `h`."""
        return [self.position(h)]

    def _move(self, sources: list[Tensor], *rates: Tensor) -> Tensor:
        """Returns the map after the motion, for rates `(B, C, 1, …)`, in float32.

        Half precision would lose the waves of small amplitude next to the large ones.
        """
        kind = sources[0].device.type
        autocast = torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=False) if autocast else contextlib.nullcontext():
            spectra = [cosine_transform(source.float()) for source in sources]
            return cosine_transform(self.evolve(spectra, *rates), inverse=True)

    def evolve(self, spectra: list[Tensor], *rates: Tensor) -> Tensor:
        """Returns the spectrum after the motion, for the spectra of the sources, `(B, C, *size)`."""
        raise NotImplementedError


class Waves(SpectralMixing):
    """Damped waves `U'' + 2 g U' + c^2 |k|^2 U = 0`, with a speed `c` and a damping `g` for each channel.

    The position at time zero is a depthwise convolution of the map, the velocity a convolution of single pixels. The
    waves of low frequency are overdamped at first and spread far; those of high frequency swing. After WaveFormer
    (arXiv 2601.08602).
    """

    num_rates = 2

    def __init__(self, config: "UNetConfig", width: int, dim: int) -> None:
        super().__init__(config, width, dim)
        self.velocity = conv(dim, width, width, kernel_size=1)
        with torch.no_grad():
            # speeds from one to eight pixels per unit of time; dampings of about one
            speeds = torch.logspace(0, 3, width, base=2.0)
            assert self.rates.bias is not None
            self.rates.bias.copy_(torch.cat([speeds.log(), torch.zeros(width)]))

    def sources(self, h: Tensor) -> list[Tensor]:
        return [self.position(h), self.velocity(h)]

    def evolve(self, spectra: list[Tensor], *rates: Tensor) -> Tensor:
        start, velocity = spectra
        speed, damping = (bounded_exp(rate) for rate in rates)
        square = speed.square() * squared_frequencies(start) - damping.square()
        swing, push = propagators(square, damping)
        return swing * start + push * (velocity + damping * start)


class Heat(SpectralMixing):
    """Heat `e^(-c^2 |k|^2)` with a diffusivity `c^2` for each channel: the control of `Waves`, of first order.

    It is the operator of vHeat (arXiv 2405.16555).
    """

    num_rates = 1

    def __init__(self, config: "UNetConfig", width: int, dim: int) -> None:
        super().__init__(config, width, dim)
        with torch.no_grad():
            assert self.rates.bias is not None
            self.rates.bias.copy_(torch.logspace(0, 3, width, base=2.0).log())

    def evolve(self, spectra: list[Tensor], *rates: Tensor) -> Tensor:
        (start,) = spectra
        return torch.exp(-bounded_exp(rates[0]).square() * squared_frequencies(start)) * start


def bounded_exp(x: Tensor) -> Tensor:
    """Returns `exp(x)` with the exponent bent to stay between -4 and 4, so that no speed or damping overflows."""
    return torch.exp(4 * torch.tanh(x / 4))


def propagators(square: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `e^-g cos(w)` and `e^-g sin(w) / w` for `w^2 = square`, which may be negative (`cosh`, `sinh`) or zero.

    Their gradients are finite everywhere: near zero they come from the series in `w^2`, which has no square root.

    Args:
        square: `w^2`, at least `-g^2`.
        damping: `g`, not negative; any shape that broadcasts.
    """
    near = square.abs() < CLOSE
    one = torch.ones_like(square)
    root = torch.where(near, one, square.abs()).sqrt()
    fall = torch.exp(-damping)
    # e^-g cosh(s) as two falling exponentials: cosh alone overflows
    slow, fast = torch.exp(torch.minimum(root - damping, 0 * root)), torch.exp(-root - damping)
    overdamped = square < 0
    swing = torch.where(overdamped, (slow + fast) / 2, fall * root.cos())
    push = torch.where(overdamped, (slow - fast) / 2, fall * root.sin()) / root
    small = torch.where(near, square, 0 * square)
    series = 1 - small / 2 * (1 - small / 12 * (1 - small / 30))
    series_push = 1 - small / 6 * (1 - small / 20 * (1 - small / 42))
    return torch.where(near, fall * series, swing), torch.where(near, fall * series_push, push)


def cosine_transform(x: Tensor, inverse: bool = False) -> Tensor:
    """Returns the orthonormal cosine transform (DCT-II) of a map `(B, C, *size)` over its positions, or its inverse."""
    for axis in range(2, x.ndim):
        matrix = cosines(x.shape[axis], x)
        x = (x.movedim(axis, -1) @ (matrix if inverse else matrix.T)).movedim(-1, axis)
    return x


def squared_frequencies(x: Tensor) -> Tensor:
    """Returns `|k|^2` of each cosine wave of a map `(B, C, *size)`, in (radians per pixel)^2, as `(*size)`."""
    total: Tensor | None = None
    for axis in range(2, x.ndim):
        length = x.shape[axis]
        squares = (torch.arange(length, device=x.device, dtype=torch.float32) * (math.pi / length)).square()
        squares = squares.view(-1, *(1,) * (x.ndim - 1 - axis))
        total = squares if total is None else total + squares
    assert total is not None
    return total


def cosines(length: int, like: Tensor) -> Tensor:
    """Returns the orthonormal matrix of the cosine transform, `(length, length)`, waves in rows."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not isinstance(length, int):
        return _cosines(length, like.device)
    return _known_cosines(length, like.device)


def _cosines(length: int, device: torch.device) -> Tensor:
    numbers = torch.arange(length, device=device, dtype=torch.float32)
    waves = torch.cos(numbers[:, None] * (numbers + 0.5) * (math.pi / length))
    return waves / waves.norm(dim=1, keepdim=True)  # no root of `length`, which an export for any size would fix


@functools.lru_cache(maxsize=64)
def _known_cosines(length: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _cosines(length, device)


MIXINGS: dict[str, type[SpectralMixing]] = {"waves": Waves, "heat": Heat}
"""What can stand in the place of self-attention, by the name that `attention_type` takes."""
