"""The built-in sets of clips: something that moves in a straight line and bounces off the edges."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from continuous_unet.base.packages import import_extra
from continuous_unet.base.randomness import derive_seed
from continuous_unet.data.options import BUILT_IN_CLIPS

Frames = np.ndarray
"""The frames of a clip, uint8 `(F, H, W, C)`."""
NUMBER, LENGTH, SIZE = 1024, 12, 16
"""Number of clips, of their frames, and the side of a frame."""
DIGIT, INK = 8, 255 / 16
"""The side of a digit of scikit-learn's set, and what its values, 0 to 16, are multiplied by."""
FASTEST = 2.0
"""Most pixels that something moves in a frame, along each axis."""


def moving_digits() -> list[Frames]:
    """Returns grey clips of one handwritten digit each."""
    reason = "the data set 'moving-digits' needs scikit-learn"
    digits = import_extra("sklearn.datasets", reason, "digits").load_digits().images * INK

    def draw(rng: np.random.Generator, places: np.ndarray) -> Frames:
        digit = Image.fromarray(digits[rng.integers(len(digits))].round().astype(np.uint8))
        frames = []
        for x, y in places.tolist():
            # bilinear, because the digit moves by fractions of a pixel
            moved = (1, 0, -x, 0, 1, -y)
            frame = digit.transform((SIZE, SIZE), Image.Transform.AFFINE, moved, Image.Resampling.BILINEAR)
            frames.append(np.asarray(frame))
        return np.stack(frames)[..., None]

    return _clips("moving-digits", DIGIT, draw)


def bouncing_shapes() -> list[Frames]:
    """Returns coloured clips of a circle or a square on a plain ground."""
    scale, side = 4, 6  # drawn large and shrunk, which smooths the edges

    def draw(rng: np.random.Generator, places: np.ndarray) -> Frames:
        ground, colour = (tuple(int(c) for c in rng.integers(0, 256, 3)) for _ in range(2))
        round_one, frames = bool(rng.integers(2)), []
        for x, y in (scale * places).tolist():
            frame = Image.new("RGB", (scale * SIZE, scale * SIZE), ground)
            pen = ImageDraw.Draw(frame)
            box = (x, y, x + scale * side - 1, y + scale * side - 1)
            (pen.ellipse if round_one else pen.rectangle)(box, fill=colour)
            frames.append(np.asarray(frame.resize((SIZE, SIZE), Image.Resampling.BOX)))
        return np.stack(frames)

    return _clips("bouncing-shapes", side, draw)


DRAWN: dict[str, Callable[[], list[Frames]]] = dict(zip(BUILT_IN_CLIPS, (moving_digits, bouncing_shapes), strict=True))
"""The built-in sets by name."""


def _clips(name: str, side: int, draw: Callable[[np.random.Generator, np.ndarray], Frames]) -> list[Frames]:
    """Returns all clips of a set of things of this side, each of which follows from its number."""
    clips = []
    for number in range(NUMBER):
        rng = np.random.default_rng(derive_seed(name, number))
        clips.append(draw(rng, _path(rng, SIZE - side)))
    return clips


def _path(rng: np.random.Generator, room: float) -> np.ndarray:
    """Returns the places of the upper left corner, `(F, 2)`, which bounce between 0 and `room`."""
    start, speed = rng.uniform(0, room, 2), rng.uniform(0.5, FASTEST, 2) * rng.choice([-1, 1], 2)
    free = (start + np.arange(LENGTH)[:, None] * speed) % (2 * room)
    return np.minimum(free, 2 * room - free)
