"""Finds the shapes in an image of the kind of the built-in set `scenes`, and says whether they are what a caption says.

It uses no model. Each pixel is compared with the colours of the set, each connected region of one colour with the three
kinds of shapes at its place and of its area, and relations follow from the centroids.
"""

from dataclasses import dataclass

import numpy as np

from continuous_unet.base.packages import import_extra
from continuous_unet.data.sources.scenes import COLOURS, EXTENTS, KINDS, RELATIONS, Scene, Shape

SMALLEST_AREA = 1 / 100
"""Share of the image above which a region of one colour counts as something that is shown."""
LEAST_OVERLAP = 0.72
"""Least intersection over union of a region and the shape that it is taken for."""


@dataclass(frozen=True)
class Found:
    """A region of one colour."""

    colour: str
    kind: str | None
    """The kind of shape; None for a region that is none of them."""
    x: float
    """The centroid, from left to right, as a share of the side of the image."""
    y: float
    """The centroid, from top to bottom."""

    def is_a(self, shape: Shape) -> bool:
        """Returns whether this region is a shape."""
        return (self.colour, self.kind) == (shape.colour, shape.kind)


def find_shapes(image: np.ndarray) -> list[Found]:
    """Returns the regions of one colour in an image `(H, W, 3)` with values in [0, 1], the largest first."""
    ndimage = import_extra("scipy.ndimage", "finding shapes needs scipy", "evaluate")
    names = list(COLOURS)
    palette = _chroma(np.array([COLOURS[name] for name in names], dtype=np.float64) / 255)
    chroma = _chroma(image.astype(np.float64))
    # An edge mixes a colour with the grey ground, so its chroma is a share of that colour's, in the same direction.
    share = chroma @ (palette / (palette**2).sum(axis=1, keepdims=True)).T
    direction = palette / np.linalg.norm(palette, axis=1, keepdims=True)
    nearest = (chroma @ direction.T).argmax(axis=2)
    coloured = np.take_along_axis(share, nearest[..., None], axis=2)[..., 0] > 0.5
    found = []
    for number, name in enumerate(names):
        regions, count = ndimage.label(coloured & (nearest == number))
        for region in range(1, count + 1):
            mask = regions == region
            if mask.sum() >= SMALLEST_AREA * mask.size:
                found.append((int(mask.sum()), _describe(name, mask)))
    return [shape for _, shape in sorted(found, key=lambda entry: -entry[0])]


def _chroma(colours: np.ndarray) -> np.ndarray:
    return colours - colours.mean(axis=-1, keepdims=True)


def _describe(colour: str, mask: np.ndarray) -> Found:
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    y, x = rows.mean(), columns.mean()
    down, right = np.mgrid[:height, :width]
    overlaps = {kind: _overlap(mask, _ideal(kind, right - x, down - y, float(mask.sum()))) for kind in KINDS}
    best = max(overlaps, key=lambda kind: overlaps[kind])
    kind = best if overlaps[best] >= LEAST_OVERLAP else None
    return Found(colour, kind, float((x + 0.5) / width), float((y + 0.5) / height))


def _ideal(kind: str, right: np.ndarray, down: np.ndarray, area: float) -> np.ndarray:
    """Returns where a shape of that area is, given the distances from its centroid in pixels."""
    if kind == "circle":
        return right**2 + down**2 <= area / np.pi
    if kind == "square":
        return np.maximum(abs(right), abs(down)) <= np.sqrt(area) / 2
    side, up, low = EXTENTS["triangle"]
    radius = np.sqrt(area / (side * (up + low)))
    return (down <= low * radius) & (abs(right) * (up + low) <= (down + up * radius) * side)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def matches(image: np.ndarray, caption: str) -> bool:
    """Returns whether an image shows what a caption of the set `scenes` says, and nothing else.

    Args:
        image: `(H, W, 3)` with values in [0, 1].
        caption: such as "a red square above a blue circle".

    Raises:
        ValueError: for another caption.
    """
    scene = Scene.parse(caption)
    if scene is None:
        raise ValueError(f"{caption!r} is not a caption of the set scenes, such as 'a red square above a blue circle'")
    found = find_shapes(image)
    if scene.second is None or scene.relation is None:
        return len(found) == 1 and found[0].is_a(scene.first)
    right, down = RELATIONS[scene.relation]
    for one, other in (found, found[::-1]) if len(found) == 2 else ():
        if one.is_a(scene.first) and other.is_a(scene.second):
            x, y = one.x - other.x, one.y - other.y
            along = x * right + y * down
            return along > abs(x * down) + abs(y * right)
    return False
