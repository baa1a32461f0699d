"""The built-in set `shapes`."""

import numpy as np
from PIL import Image, ImageDraw

from continuous_unet.data.sources.base import Source


class ShapesSource(Source):
    """4,096 drawn images: a circle, square or triangle of random colour, size and place on a random ground."""

    kind = "shapes"
    alike = True
    size = 64

    @classmethod
    def matches(cls, source: str) -> bool:
        return source == "shapes"

    def open(self, source: str) -> None:
        self.names = [f"shapes[{i}]" for i in range(4096)]
        self.class_names = ["circle", "square", "triangle"]
        self.labels = [i % 3 for i in range(4096)]

    def load(self, index: int) -> Image.Image:
        rng = np.random.default_rng(index)
        scale = 4  # drawn large and shrunk, which smooths the edges
        side = self.size * scale
        ground, colour = (tuple(int(c) for c in rng.integers(0, 256, 3)) for _ in range(2))
        radius = rng.uniform(0.15, 0.35) * side
        x, y = rng.uniform(radius, side - radius, 2)
        image = Image.new("RGB", (side, side), ground)
        draw = ImageDraw.Draw(image)
        if index % 3 == 0:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            draw.regular_polygon((x, y, radius), 4 if index % 3 == 1 else 3, int(rng.integers(0, 90)), fill=colour)
        return image.resize((self.size, self.size), Image.Resampling.BOX)
