"""Every data set's loader: endless batches with their positions, the same for any number of workers and processes."""

import io
import itertools
import multiprocessing
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.data import EpochSampler, memory, open_dataset
from continuous_unet.data.streaming import open_stream

CPU = torch.device("cpu")


def images(path, number=10):
    path.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        Image.new("L", (8, 8), 20 * i).save(path / f"{i}.png")
    return open_dataset(path, progress=False, seed=3, random_flip=True)


def stream(path, shards=2, each=6):
    path.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        with tarfile.open(path / f"{shard}.tar", "w") as tar:
            for i in range(each):
                buffer = io.BytesIO()
                Image.new("L", (8, 8), 20 * (shard * each + i)).save(buffer, format="PNG")
                info = tarfile.TarInfo(f"{shard}-{i}.png")
                info.size = buffer.tell()
                tar.addfile(info, io.BytesIO(buffer.getvalue()))
    options = {"channels": None, "fit": "crop", "random_flip": False, "random_crop": False, "max_bad_images": 0.1}
    return open_stream(str(path), image_size=8, **options, seed=3, readers=2)


OPENERS = {"images": images, "stream": stream}


def take(loader, number):
    batches = list(itertools.islice(loader, number))
    loader.close()
    return batches


@pytest.mark.parametrize("kind", OPENERS)
def test_batches_come_with_their_positions(kind, tmp_path):
    pytest.importorskip("webdataset")
    data = OPENERS[kind](tmp_path)
    batches = take(data.loader(4), 5)
    assert [positions for positions, _ in batches] == [range(4 * i, 4 * i + 4) for i in range(5)]
    for _, batch in batches:
        assert batch["image"].shape == (4, 1, 8, 8)
        assert batch["unreadable"].tolist() == [False] * 4
    # 7 images seen before are two batches of 4, and one of 8 in two processes
    assert take(data.loader(4, start=7), 1)[0][0] == range(8, 12)
    assert take(data.loader(4, start=7, rank=1, world_size=2), 1)[0][0] == range(12, 16)
    assert data.resume_promise.startswith("exact" if kind == "images" else "approximate")


def test_the_order_is_that_of_the_epochs(tmp_path):
    data = images(tmp_path)
    for seed, order in ((None, 3), (5, 5)):
        keys = list(itertools.islice(EpochSampler(10, 4, order, start_batch=1), 4))
        batches = take(data.loader(4, start=4, num_workers=2, seed=seed), 4)
        for (_, batch), wanted in zip(batches, keys, strict=True):
            assert batch["index"].tolist() == [index for _, index in wanted]
            assert torch.equal(batch["image"], torch.stack([data[key]["image"] for key in wanted]))


def test_a_stream_is_read_by_copies(tmp_path):
    pytest.importorskip("webdataset")
    data = stream(tmp_path)
    both = [take(data.loader(3, rank=rank, world_size=2), 2) for rank in range(2)]
    shades = [round(float(v + 1) * 127.5) for part in both for _, b in part for v in b["image"][:, 0, 0, 0]]
    assert sorted(shades) == [20 * i for i in range(12)]
    assert (data.rank, data.world_size, data.start) == (0, 1, 0)
    first, later = (take(data.loader(3, start=start), 4) for start in (0, 12))
    assert not all(torch.equal(a["image"], b["image"]) for (_, a), (_, b) in zip(first, later, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_in_a_worker_is_told_in_its_own_words(num_workers, tmp_path):
    data = images(tmp_path / "a\nb")
    shutil.rmtree(tmp_path)
    with pytest.raises(InputError) as caught:
        take(data.loader(4, num_workers=num_workers), 1)
    assert (
        str(caught.value)
        == f"ten images in a row of {tmp_path}/a\nb can no longer be read; check that its disk is connected"
    )
    assert multiprocessing.active_children() == []  # although `caught` still holds the exception


def test_closing_ends_the_workers(tmp_path):
    loader = images(tmp_path).loader(4, num_workers=2)
    next(loader)
    assert len(multiprocessing.active_children()) == 2
    loader.close()
    assert multiprocessing.active_children() == []


def coloured(path, number=9):
    """Photographs in two classes, larger than what a model sees of them, some with transparency."""
    for i in range(number):
        pixels = np.random.default_rng(i).integers(0, 256, (14, 11, 4 if i % 3 else 3), dtype=np.uint8)
        (path / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path / f"class{i % 2}" / f"{i}.png")
    return open_dataset(path, image_size=8, progress=False, seed=5, random_flip=True, max_bad_images=1.0)


@pytest.mark.parametrize("opener", [images, coloured])
def test_images_that_are_kept_in_memory_are_the_same(opener, tmp_path, monkeypatch):
    data = opener(tmp_path)
    assert data.obstacle(CPU, 1) is None
    decoded = []
    monkeypatch.setattr(type(data.source), "load", recording(type(data.source).load, decoded))
    kept = take(data.loader(4, start=8, kept=data.keep(CPU)), 8)
    assert len(decoded) == len(set(decoded)) == len(data)
    for (positions, batch), (expected_positions, expected) in zip(kept, take(data.loader(4, start=8), 8), strict=True):
        assert positions == expected_positions
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[name], expected[name]) for name in batch)


def recording(load, seen):
    def loading(source, position):
        seen.append(position)
        return load(source, position)

    return loading


def test_what_stands_in_for_a_lost_image_is_not_kept(tmp_path):
    data = coloured(tmp_path)
    (tmp_path / "class0" / "2.png").rename(tmp_path / "away.png")
    kept, lost = data.keep(CPU), [name.endswith("2.png") for name in data.source.names].index(True)
    batch = kept.batch([(0, lost), (0, 0)])
    assert batch["unreadable"].tolist() == [True, False]
    expected = [data[0, lost], data[0, 0]]
    assert torch.equal(batch["image"], torch.stack([item["image"] for item in expected]))
    assert batch["label"].tolist() == [item["label"] for item in expected]
    (tmp_path / "away.png").rename(tmp_path / "class0" / "2.png")
    assert not kept.batch([(0, lost)])["unreadable"].any()


def test_what_cannot_be_kept_is_named(tmp_path, monkeypatch):
    data = images(tmp_path / "grey")
    cropped = replace(data, preparation=replace(data.preparation, random_crop=True))
    assert "cropped" in cropped.obstacle(CPU, 1)
    Image.fromarray(np.full((8, 8), 300, dtype=np.uint16)).save(tmp_path / "grey" / "deep.png")
    assert "8 bits" in open_dataset(tmp_path / "grey", progress=False).obstacle(CPU, 1)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 4 * 640 * 2)
    assert data.obstacle(CPU, 2) is None
    assert "GiB" in data.obstacle(CPU, 3)
