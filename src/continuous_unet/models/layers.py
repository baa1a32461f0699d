"""Layers for maps of one, two or three dimensions: `(B, C, *size)`, where `size` has `dim` numbers."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Stride = int | Sequence[int]


class FactorisedConv(nn.Module):
    """A convolution over height and width, followed by one over time, which starts as the identity.

    With a kernel of 3 it takes 12 multiplications where a convolution of three dimensions takes 27. A new model treats
    each frame by itself.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: Stride, groups: int) -> None:
        super().__init__()
        over_time, height, width = (stride,) * 3 if isinstance(stride, int) else stride
        half = kernel_size // 2
        space: Any = {"kernel_size": (1, kernel_size, kernel_size), "padding": (0, half, half)}
        self.space = nn.Conv3d(in_channels, out_channels, stride=(1, height, width), groups=groups, **space)
        # over frames and pixels: torch 2.13 gives wrong gradients for a kernel of (3, 1, 1), two frames and bfloat16
        along: Any = {"kernel_size": (kernel_size, 1), "padding": (half, 0)}
        self.time = nn.Conv2d(out_channels, out_channels, stride=(over_time, 1), groups=groups, **along)
        nn.init.dirac_(self.time.weight, groups)
        assert self.time.bias is not None
        nn.init.zeros_(self.time.bias)

    @property
    def weight(self) -> Tensor:
        """The weight of the last convolution."""
        return self.time.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of the last convolution."""
        return self.time.bias

    def forward(self, x: Tensor) -> Tensor:
        """Returns the map `(B, out_channels, F, H, W)`, with the sides divided by the stride."""
        x = self.space(x)
        return self.time(x.flatten(3)).unflatten(3, x.shape[3:])


Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d | FactorisedConv
Layer = TypeVar("Layer", Conv, nn.Linear)
_CONVS: dict[int, Callable[..., nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

NORM_TYPES = ("group", "pixel", "none")
"""Normalisation inside fields: over groups of channels of the whole map, over the channels of each pixel, or none."""


def conv(
    dim: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    *,
    stride: Stride = 1,
    groups: int = 1,
    factorised: bool = False,
) -> Conv:
    """Returns a convolution with an odd kernel that keeps the size of a map (divides it by `stride`).

    With `factorised`, one of three dimensions is made of two, see `FactorisedConv`.
    """
    if factorised and dim == 3 and kernel_size > 1:
        return FactorisedConv(in_channels, out_channels, kernel_size, stride, groups)
    return _CONVS[dim](in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups)


_CONVOLVE: dict[int, Callable[..., Tensor]] = {
    1: nn.functional.conv1d,
    2: nn.functional.conv2d,
    3: nn.functional.conv3d,
}


def adjoint(layer: Conv, x: Tensor) -> Tensor:
    """Returns `K^T x` for a map `x` `(B, out_channels, *size)` and the kernel `K` of a layer that keeps the size.

    It has no bias, and no parameters beside those of the layer.
    """
    if isinstance(layer, FactorisedConv):
        return adjoint(layer.space, adjoint(layer.time, x.flatten(3)).unflatten(3, x.shape[3:]))
    weight = layer.weight.transpose(0, 1).flip(tuple(range(2, layer.weight.ndim)))
    return _CONVOLVE[x.ndim - 2](x, weight, padding=layer.padding)


def zeroed(module: Layer) -> Layer:
    """Sets weight and bias to zero."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class PixelNorm(nn.Module):
    """Brings each pixel's channels to zero mean and unit variance, then applies a learned scale and shift.

    Unlike a group's, the statistics are those of one pixel. So a pixel of the output depends on its surroundings and
    not on the rest of the image. Restoration needs this, because it cuts photographs into tiles.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` `(B, C, *size)`, normalised over C."""
        by_pixel = x.movedim(1, -1)
        normed = nn.functional.layer_norm(by_pixel, self.weight.shape, self.weight, self.bias, self.eps)
        return normed.movedim(-1, 1)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that keeps the layout of channels-last maps on a GPU.

    There torch's own kernel returns maps whose channels come first, so that the convolutions before and after it would
    copy them. Everywhere else it is torch's.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda and x.ndim == 4 and x.stride(1) == 1 and x.shape[1] > 1:
            return channels_last_group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return super().forward(x)


def channels_last_group_norm(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Returns `x` `(B, C, H, W)`, normalised over groups of channels, with its layout and its precision."""
    by_group = x.permute(0, 2, 3, 1).unflatten(-1, (num_groups, -1)).float()
    variance, mean = torch.var_mean(by_group, dim=(1, 2, 4), correction=0, keepdim=True)
    normed = ((by_group - mean) * (variance + eps).rsqrt()).flatten(3)
    return torch.addcmul(bias.float(), normed, weight.float()).to(x.dtype).permute(0, 3, 1, 2)


def norm(norm_type: str, channels: int, num_groups: int, eps: float) -> nn.Module:
    """Returns the normalisation of that name (see `NORM_TYPES`) for maps of any dimension."""
    if norm_type == "none":
        return nn.Identity()
    return PixelNorm(channels, eps) if norm_type == "pixel" else GroupNorm(num_groups, channels, eps=eps)


def pixel_unshuffle(x: Tensor, factor: int, kept: int = 0) -> Tensor:
    """Moves squares of `factor` pixels a side into channels: `(B, C, *size)` to `(B, C factor^dim, *(size / factor))`.

    The first `kept` axes of `size` stay as they are. The order of channels is that of torch's `pixel_unshuffle`, which
    is for two dimensions only.
    """
    if factor == 1:
        return x
    if x.ndim == 4:
        return nn.functional.pixel_unshuffle(x, factor)
    for axis in range(2 + kept, x.ndim):
        x = x.unflatten(axis, (-1, factor)).movedim(axis + 1, 2).flatten(1, 2)
    return x


def pixel_shuffle(x: Tensor, factor: int, kept: int = 0) -> Tensor:
    """Undoes `pixel_unshuffle`."""
    if factor == 1:
        return x
    if x.ndim == 4:
        return nn.functional.pixel_shuffle(x, factor)
    for axis in reversed(range(2 + kept, x.ndim)):
        x = x.unflatten(1, (-1, factor)).movedim(2, axis + 1).flatten(axis, axis + 1)
    return x


class Merge(nn.Module):
    """Joins an upsampled map with the skip connection of its level: concatenation and a 1x1 convolution."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(dim, 2 * channels, channels, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([x, skip.to(x.dtype)], dim=1))


class Upsample(nn.Module):
    """A 3x3 convolution, then nearest-neighbour doubling, of all axes or by the given factors.

    In this order the convolution runs on a quarter of the pixels; the block that follows smooths the result.
    """

    def __init__(
        self,
        dim: int,
        in_channels: int,
        out_channels: int,
        factors: tuple[float, ...] | None = None,
        factorised: bool = False,
    ) -> None:
        super().__init__()
        self.conv = conv(dim, in_channels, out_channels, factorised=factorised)
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.conv(x), scale_factor=self.factors or 2.0, mode="nearest")
