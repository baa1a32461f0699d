"""The program that finds the shapes: it is right about drawn scenes, also noisy and blurred ones."""

import numpy as np
import pytest
from PIL import ImageFilter

from continuous_unet.data.sources.scenes import OPPOSITES, SHAPES, Scene, Shape, draw, scenes_of
from continuous_unet.evaluation.quality.captions import find_shapes, matches

pytest.importorskip("scipy")
SCENES = [*scenes_of("train"), *scenes_of("test")]
NUMBER = 400  # benchmarks/text.py checks more


def pixels(image):
    return np.asarray(image) / 255


def degrade(image, rng, how):
    if how == "blurred":
        return pixels(image.filter(ImageFilter.GaussianBlur(0.7)))
    return np.clip(pixels(image) + rng.normal(0, 0.05 if how == "noisy" else 0, (32, 32, 3)), 0, 1)


@pytest.mark.parametrize(("how", "least"), [("clean", 1.0), ("noisy", 0.99), ("blurred", 0.99)])
def test_right_captions_are_accepted(how, least):
    rng = np.random.default_rng(0)
    scenes = [SCENES[i] for i in rng.integers(len(SCENES), size=NUMBER)]
    right = [matches(degrade(draw(scene, i), rng, how), str(scene)) for i, scene in enumerate(scenes)]
    assert np.mean(right) >= least


def wrong(scene, rng):
    """Captions that differ in one thing: a shape, a colour, a relation, or one shape more or fewer."""
    others = [s for s in SHAPES if s not in (scene.first, scene.second)]
    other = others[rng.integers(len(others))]
    yield Scene(other, scene.relation, scene.second)
    if scene.second is None:
        yield Scene(scene.first, "above", other)
    else:
        yield Scene(scene.first, OPPOSITES[scene.relation], scene.second)
        yield Scene(scene.second, scene.relation, scene.first)
        yield Scene(scene.first, "above" if "of" in scene.relation else "left of", scene.second)
        yield Scene(scene.first)


def test_wrong_captions_are_rejected():
    rng = np.random.default_rng(1)
    for i in range(150):
        scene = SCENES[rng.integers(len(SCENES))]
        image = pixels(draw(scene, i))
        assert not any(matches(image, str(caption)) for caption in wrong(scene, rng))
        if scene.second is not None:
            assert matches(image, str(Scene(scene.second, OPPOSITES[scene.relation], scene.first)))


def test_what_is_no_shape_is_none():
    image = np.full((32, 32, 3), 0.9)
    image[10:13, 4:28] = image[4:20, 14:17] = (0.9, 0.1, 0.1)  # a cross
    (found,) = find_shapes(image)
    assert (found.colour, found.kind) == ("red", None)
    assert not any(matches(image, str(Shape("red", kind))) for kind in ("circle", "square", "triangle"))
    with pytest.raises(ValueError, match="'a cross' is not a caption of the set scenes"):
        matches(image, "a cross")
