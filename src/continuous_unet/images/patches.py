"""Runs volumes of any size through a network, in overlapping patches that are blended smoothly."""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.images.tiling import Tiles, blend_weights, spans

PATCH, OVERLAP = 64, 16
"""The side of a patch and the overlap of two neighbours, in voxels, if none is given."""


def in_patches(
    function: Callable[[Tensor], Tensor],
    volumes: Tensor,
    *,
    multiples: Sequence[int] = (1, 1, 1),
    patch: int = PATCH,
    overlap: int = OVERLAP,
    before_patch: Callable[[], None] = lambda: None,
) -> Tensor:
    """Returns the result of a function on overlapping patches; only one patch is evaluated at a time.

    Args:
        function: `(B, C, d, h, w)` to `(B, C', d, h, w)`.
        volumes: `(B, C, D, H, W)`.
        multiples: the sides of its input must be multiples of these; patches are padded by repeating the border.
        patch: side of the patches in voxels; smaller volumes are one patch.
        overlap: voxels that neighbours share.
        before_patch: called before each patch; an exception that it raises ends the work.

    Raises:
        InputError: for volumes of other dimensions, and for patches that are too small.
    """
    if volumes.ndim != 5:
        raise InputError(f"volumes have shape {tuple(volumes.shape)}; expected (B, C, D, H, W)")
    tiles = [Tiles(patch, overlap).on_multiples(multiple) for multiple in multiples]
    sides = [spans(length, tile) for length, tile in zip(volumes.shape[2:], tiles, strict=True)]
    result: Tensor | None = None
    for numbers in product(*(range(len(side)) for side in sides)):
        before_patch()
        where = [slice(*side[number]) for side, number in zip(sides, numbers, strict=True)]
        piece = volumes[:, :, where[0], where[1], where[2]]
        missing = [-size % multiple for size, multiple in zip(piece.shape[2:], multiples, strict=True)]
        padding = [part for size in reversed(missing) for part in (0, size)]
        whole = torch.nn.functional.pad(piece, padding, mode="replicate") if any(missing) else piece
        made = function(whole)[:, :, : piece.shape[2], : piece.shape[3], : piece.shape[4]]
        for axis, (side, number, tile) in enumerate(zip(sides, numbers, tiles, strict=True)):
            weights = blend_weights(number, side, tile.overlap, 1).to(made)
            made = made * weights.reshape(-1, *[1] * (2 - axis))
        if result is None:
            result = made.new_zeros(*made.shape[:2], *volumes.shape[2:])
        result[:, :, where[0], where[1], where[2]] += made
    assert result is not None  # there is at least one patch
    return result
