"""Masks of every kind mark the same pixels, or are refused in words."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.images.masks import mask_of

CASES = Path(__file__).parents[1] / "cases"
HOLE = mask_of(Image.open(CASES / "m255.png"))


@pytest.mark.parametrize("name", ["m255.png", "m01.png", "m_pal_red.png", "m_i32.tif", "m_la.png"])
def test_the_same_hole_in_every_kind_of_file(name):
    hole = mask_of(Image.open(CASES / name))
    assert hole.shape == (1, 16, 16)
    assert int(hole.sum()) == 25
    assert bool((hole == HOLE).all())


def test_more_than_two_values_are_cut_in_the_middle():
    values = np.array([[0, 100, 127, 128, 200, 255]], dtype=np.uint8)
    assert mask_of(Image.fromarray(values))[0].tolist() == [[False, False, False, True, True, True]]
    deep = Image.fromarray(values.astype(np.uint16) * 257)
    assert mask_of(deep)[0].tolist() == [[False, False, False, True, True, True]]


def test_a_constant_alpha_channel_says_nothing():
    image = Image.open(CASES / "m255.png").convert("RGBA")
    assert bool((mask_of(image) == HOLE).all())
    image.putalpha(0)
    assert bool((mask_of(image) == HOLE).all())


@pytest.mark.parametrize(("colour", "share"), [("black", "none"), ("white", "all")])
def test_a_mask_of_nothing_or_everything_is_refused(colour, share):
    with pytest.raises(InputError, match=f"marks {share} of its 64 pixels"):
        mask_of(Image.new("L", (8, 8), colour))
