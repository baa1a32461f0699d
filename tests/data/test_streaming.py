"""Tar shards: every image once a pass, dealt out to processes and workers; bad ones left out; a fresh pass to go on."""

import io
import os
import tarfile
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.data.streaming import find_shards, is_stream, open_stream

pytest.importorskip("webdataset")
SHARDS, EACH = 4, 5


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path):
    """Four shards of five images; image k has the shade 10 k. Each has a class and a pickle, which are not read."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for s in range(SHARDS):
        with tarfile.open(folder / f"{s}.tar", "w") as tar:
            for i in range(EACH):
                add(tar, f"{s}-{i}.png", png(10 * (EACH * s + i)))
                add(tar, f"{s}-{i}.cls", b"1")
                add(tar, f"{s}-{i}.pickle", b"cos\nsystem\n(S'touch sprung'\ntR.")
    return folder


def stream(folder, **changes):
    options = {"image_size": 8, "channels": 1, "fit": "crop", "random_flip": False, "random_crop": False, "seed": 0}
    return open_stream(str(folder), **{**options, "max_bad_images": 0.5, "readers": 1, **changes})


def shades(dataset, count):
    """Which image each of the first items is."""
    return [round(float((item["image"].mean() + 1) * 12.75)) for item in islice(iter(dataset), count)]


def test_each_image_once_a_pass_and_another_order_the_next_time(shards):
    first, second = (shades(stream(shards), 40)[k : k + 20] for k in (0, 20))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert shades(stream(shards), 20) == first
    assert shades(stream(shards, seed=1), 20) != first


def test_processes_and_workers_divide_the_shards(shards):
    seen = []
    for rank in range(2):
        dataset = stream(shards, readers=4)
        dataset.rank, dataset.world_size = rank, 2
        loader = torch.utils.data.DataLoader(dataset, batch_size=5, num_workers=2)
        batches = list(islice(iter(loader), 2))
        seen += [round(float((image.mean() + 1) * 12.75)) for batch in batches for image in batch["image"]]
    assert sorted(seen) == list(range(20))


def test_going_on_is_a_fresh_pass(shards):
    dataset = stream(shards)
    before = shades(dataset, 20)
    dataset.start = 20
    after = shades(dataset, 20)
    assert sorted(after) == list(range(20))
    assert after != before
    assert "approximate" in dataset.resume_promise


def test_bad_images_are_left_out_until_they_are_too_many(shards, caplog):
    with tarfile.open(shards / "0.tar", "w") as tar:
        add(tar, "a.png", b"no image")
        add(tar, "b.png", png(0))
    os.truncate(shards / "1.tar", 552)  # in the midst of an image
    found = shades(stream(shards), 11)
    assert 0 in found
    assert "a.png" in caplog.text
    assert "the rest of it is left out" in caplog.text
    with tarfile.open(shards / "0.tar", "w") as tar:
        for i in range(3):
            add(tar, f"{i}.png", b"no image")
    with pytest.raises(InputError, match=r"3 of 13 images read from .* cannot be used"):
        shades(stream(shards, max_bad_images=0.1), 60)


def test_what_is_refused(shards, tmp_path):
    assert is_stream(str(shards))
    assert find_shards(str(shards / "2.tar")) == [str(shards / "2.tar")]
    assert not is_stream(str(tmp_path))
    with pytest.raises(InputError, match="--image-size"):
        stream(shards, image_size=None)
    with pytest.raises(InputError, match="4 shards, and 5 would read them"):
        stream(shards, readers=5)
    with tarfile.open(tmp_path / "none.tar", "w") as tar:
        add(tar, "a.txt", b"x")
    with pytest.raises(InputError, match="no image that can be used"):
        stream(tmp_path / "none.tar")
