"""Runs images of any size through a network, in overlapping tiles that are padded and blended smoothly.

Only one row of tiles is in memory at a time, whatever the height of the image. The tiles lie on multiples of the
network's own factor, so that strides and space-to-depth fall on the same pixels as in the whole image.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError


@dataclass(frozen=True)
class Tiles:
    """Side of the tiles and width of the overlap of two neighbours, in pixels of the input."""

    size: int = 512
    overlap: int = 64

    def __post_init__(self) -> None:
        if self.overlap < 0 or self.size < 2 * max(self.overlap, 8):
            raise InputError(
                f"tiles of {self.size} pixels that overlap by {self.overlap}: the size must be at least 16 and at "
                "least twice the overlap, and the overlap at least 0"
            )

    def on_multiples(self, multiple: int) -> "Tiles":
        """Returns the next larger tiles whose size and overlap are multiples."""
        return Tiles(*(math.ceil(value / multiple) * multiple for value in (self.size, self.overlap)))


def in_tiles(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    multiple: int,
    scale: int = 1,
    tiles: Tiles | None = None,
    pad: bool = True,
    before_tile: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """Applies a function to overlapping tiles.

    Args:
        function: `(B, C, h, w)` to `(B, C', scale h, scale w)`, h and w multiples.
        images: `(B, C, H, W)`.
        multiple: height and width of its input must be multiples of this; images are padded by reflection.
        scale: how many times larger the function makes images.
        tiles: size and overlap, in pixels of the input.
        pad: whether tiles at the edge of the image are padded to the multiple; not needed by a function that takes any
            size.
        before_tile: called before each tile; an exception that it raises ends the work.

    Yields:
        The result from top to bottom in bands of whole rows, `(B, C', rows, scale W)`; together `scale H` rows.
    """
    tiles = (tiles or Tiles()).on_multiples(multiple)
    height, width = images.shape[2:]
    rows, columns = (spans(length, tiles) for length in (height, width))
    carried: Tensor | None = None  # the part of the row above that this one shares
    for y, (top, bottom) in enumerate(rows):
        band: Tensor | None = None
        for x, (left, right) in enumerate(columns):
            before_tile()
            tile = images[:, :, top:bottom, left:right]
            result = function(padded(tile, multiple) if pad else tile)[
                :, :, : (bottom - top) * scale, : (right - left) * scale
            ]
            if len(rows) == len(columns) == 1:
                yield result
                return
            if band is None:
                band = result.new_zeros((*result.shape[:3], width * scale))
            weights = blend_weights(x, columns, tiles.overlap, scale).to(result)
            band[..., left * scale : right * scale] += result * weights
        assert band is not None  # there is at least one column
        band = band * blend_weights(y, rows, tiles.overlap, scale).to(band)[:, None]
        if carried is not None:
            band[:, :, : carried.shape[2]] += carried
        done = ((rows[y + 1][0] if y + 1 < len(rows) else bottom) - top) * scale
        carried = band[:, :, done:]
        yield band[:, :, :done]


def spans(length: int, tiles: Tiles) -> list[tuple[int, int]]:
    """Returns begin and end of the tiles along one side; the last one ends with the image."""
    starts = [0]
    while starts[-1] + tiles.size < length:
        starts.append(starts[-1] + tiles.size - tiles.overlap)
    return [(start, min(start + tiles.size, length)) for start in starts]


def blend_weights(number: int, spans: list[tuple[int, int]], overlap: int, scale: int) -> Tensor:
    """Returns the weights of one tile along one side; those of neighbours sum to one, and fall smoothly to zero.

    They fall in the middle half of the overlap. Its outer quarter knows least of its surroundings and has no weight.
    """
    start, stop = spans[number]
    weights = torch.ones((stop - start) * scale)
    position = (torch.arange(overlap * scale) + 0.5) / max(overlap * scale, 1)
    ramp = torch.sin((2 * position - 0.5).clamp(0, 1) * math.pi / 2) ** 2
    if number > 0:
        weights[: len(ramp)] = ramp
    if number + 1 < len(spans):
        weights[len(weights) - len(ramp) :] = 1 - ramp
    return weights


def padded(tile: Tensor, multiple: int) -> Tensor:
    """Pads `(B, C, H, W)` to the next multiple, at the bottom and right, by reflection, or repetition if too small."""
    height, width = tile.shape[2:]
    padding = -width % multiple, -height % multiple
    if not any(padding):
        return tile
    mode = "reflect" if padding[0] < width and padding[1] < height else "replicate"
    return torch.nn.functional.pad(tile, (0, padding[0], 0, padding[1]), mode=mode)
