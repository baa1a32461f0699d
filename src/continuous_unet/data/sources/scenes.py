"""The built-in set `scenes`: drawn scenes of coloured shapes, each with a caption."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from PIL import Image, ImageDraw

from continuous_unet.base.randomness import derive_seed
from continuous_unet.data.sources.base import Source

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 32),
    "green": (24, 158, 48),
    "blue": (32, 64, 226),
    "yellow": (244, 200, 16),
}
KINDS = ("circle", "square", "triangle")
RELATIONS: dict[str, tuple[int, int]] = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}
"""The direction (right, down) from the second shape to the first."""
OPPOSITES = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}


@dataclass(frozen=True)
class Shape:
    """A kind of shape of one colour."""

    colour: str
    kind: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.kind}"


@dataclass(frozen=True)
class Scene:
    """What a caption says: one shape, or two and the relation of the first to the second."""

    first: Shape
    relation: str | None = None
    second: Shape | None = None

    def __str__(self) -> str:
        return str(self.first) if self.second is None else f"{self.first} {self.relation} {self.second}"

    @classmethod
    def parse(cls, caption: str) -> "Scene | None":
        """Returns the scene of a caption; None if it is not a caption of this set."""
        return _BY_CAPTION.get(" ".join(caption.lower().split()))


SHAPES = [Shape(colour, kind) for colour in COLOURS for kind in KINDS]
PAIRS = list(combinations(SHAPES, 2))
HELD_OUT = tuple(PAIRS[i] for i in np.random.default_rng(0).permutation(len(PAIRS))[:13])
"""Two shapes that `split="train"` never shows together, in whatever relation; `split="test"` has nothing else."""


def scenes_of(split: str) -> list[Scene]:
    """Returns every scene of a split."""
    held_out = split == "test"
    pairs = [pair for pair in PAIRS if (pair in HELD_OUT) == held_out]
    both = [Scene(a, relation, b) for pair in pairs for a, b in (pair, pair[::-1]) for relation in RELATIONS]
    return both if held_out else [*map(Scene, SHAPES), *both]


_BY_CAPTION = {str(scene): scene for split in ("train", "test") for scene in scenes_of(split)}

EXTENTS = {
    "circle": (1.0, 1.0, 1.0),
    "square": (0.9, 0.9, 0.9),
    "triangle": (1.18, 1.36, 0.68),  # equilateral, one side at the bottom
}
"""How far each kind of shape reaches from its centroid, in radii: to either side, up and down."""

MARGIN = 0.03
"""Least distance of a shape from the edge, as a share of the side of the image."""
Places = list[tuple[float, float, float]]


class ScenesSource(Source):
    """32x32 images of one or two coloured shapes on a light grey ground, 32,768 to train on and 4,096 to test.

    Their captions name the shapes and how they lie to each other, such as "a red square above a blue circle". The test
    images show pairs of shapes that the training images never show together.
    """

    kind = "scenes"
    alike = True
    size = 32
    number = {"train": 32_768, "test": 4_096}  # noqa: RUF012 (a constant)

    @classmethod
    def matches(cls, source: str) -> bool:
        return source == "scenes"

    def open(self, source: str) -> None:
        split = self.reading.split
        self.names = [
            f"scenes[{i}]" if split == "train" else f"scenes[{split}, {i}]" for i in range(self.number[split])
        ]
        scenes = scenes_of(split)
        self.scenes = [scenes[derive_seed("scene", split, i) % len(scenes)] for i in range(len(self.names))]
        self.captions = list(map(str, self.scenes))

    def load(self, index: int) -> Image.Image:
        return draw(self.scenes[index], derive_seed("drawing", self.reading.split, index), self.size)


def draw(scene: Scene, seed: int, size: int = ScenesSource.size) -> Image.Image:
    """Draws a scene: places, sizes and the grey of the ground follow from the seed."""
    rng = np.random.default_rng(seed)
    scale = 4  # drawn large and shrunk, which smooths the edges
    ground = (int(rng.integers(190, 250)),) * 3
    image = Image.new("RGB", (size * scale, size * scale), ground)
    pen = ImageDraw.Draw(image)
    for shape, (x, y, radius) in zip((scene.first, scene.second), _places(scene, rng), strict=False):
        assert shape is not None
        x, y, radius = (float(value) * size * scale for value in (x, y, radius))
        side, up, down = (part * radius for part in EXTENTS[shape.kind])
        if shape.kind == "circle":
            pen.ellipse((x - side, y - up, x + side, y + down), fill=COLOURS[shape.colour])
        elif shape.kind == "square":
            pen.rectangle((x - side, y - up, x + side, y + down), fill=COLOURS[shape.colour])
        else:
            pen.polygon([(x, y - up), (x - side, y + down), (x + side, y + down)], fill=COLOURS[shape.colour])
    return image.resize((size, size), Image.Resampling.BOX)


def _places(scene: Scene, rng: np.random.Generator) -> Places:
    """Returns centre and radius of each shape, as shares of the side of the image."""
    shapes = [shape for shape in (scene.first, scene.second) if shape is not None]
    least, most = (0.15, 0.2) if len(shapes) == 2 else (0.17, 0.25)
    while True:
        places, reach = [], []
        for shape, (across, down, large) in zip(shapes, rng.random((2, 3)).tolist(), strict=False):
            radius = least + large * (most - least)
            x, up, low = (part * radius for part in EXTENTS[shape.kind])
            left, top = x + MARGIN, up + MARGIN
            places.append((left + across * (1 - 2 * left), top + down * (1 - top - low - MARGIN), radius))
            reach.append((x, up, low))
        if scene.relation is None or _far_enough(RELATIONS[scene.relation], places, reach):
            return places


def _far_enough(direction: tuple[int, int], places: Places, reach: Places) -> bool:
    """Returns whether the first shape clearly lies in a direction of the second, with a gap between them."""
    (right, down), ((x1, y1, _), (x2, y2, _)) = direction, places
    (side1, up1, down1), (side2, up2, down2) = reach
    along, across = (x1 - x2) * right + (y1 - y2) * down, abs((x1 - x2) * down) + abs((y1 - y2) * right)
    touching = side1 + side2 if right else down1 + up2 if down < 0 else up1 + down2
    return along >= touching + 0.08 and across <= 0.5 * along
