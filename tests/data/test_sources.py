"""Every source: what it finds, which labels, and what is wrong with what cannot be used. A new source adds a case."""

import gzip
import os
import pickle
import shutil
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.data import open_dataset
from continuous_unet.data.check import check_data
from continuous_unet.data.options import DataOptions
from continuous_unet.data.sources.files import sorted_classes

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]
LABELS = np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)


def make_folder(path, classes=False):
    for i, pixels in enumerate(PIXELS):
        folder = path / f"class{i % 3}" if classes else path / "deep" / "er"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"bild-ü{i}{'.PNG' if i % 2 else '.png'}")
    return path


def folder(path):
    return str(make_folder(path / "images"))


def class_folder(path):
    return str(make_folder(path / "images", classes=True))


def archive(path):
    shutil.make_archive(str(path / "images"), "zip", path, make_folder(path / "images", classes=True).name)
    return str(path / "images.zip")


def idx_bytes(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx(path):
    (path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(GREY)))
    (path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(LABELS)))
    (path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(GREY[:2]))
    return str(path)


def npz(path):
    np.savez(path / "images.npz", images=PIXELS, labels=LABELS)
    return str(path / "images.npz")


def hub(path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["a", "b", "c"])})
    rows = {"picture": [Image.fromarray(p) for p in PIXELS], "kind": LABELS.tolist()}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(path / "saved")
    return f"hf:{path / 'saved'}"


SOURCES = {
    "folder": (folder, PIXELS, None),
    "folder with classes": (class_folder, PIXELS[[0, 3, 1, 4, 2, 5]], LABELS[[0, 3, 1, 4, 2, 5]]),
    "zip": (archive, PIXELS[[0, 3, 1, 4, 2, 5]], LABELS[[0, 3, 1, 4, 2, 5]]),
    "idx": (idx, GREY, LABELS),
    "npz": (npz, PIXELS, LABELS),
    "hub": (hub, PIXELS, LABELS),
}


@pytest.mark.parametrize("name", SOURCES)
def test_pixels_and_labels(name, tmp_path):
    make, pixels, labels = SOURCES[name]
    dataset = open_dataset(make(tmp_path), progress=False)
    assert len(dataset) == dataset.report.num_images == 6
    assert dataset.report.image_size == 8
    expected = torch.from_numpy(pixels.reshape(6, 8, 8, -1)).permute(0, 3, 1, 2) / 127.5 - 1
    for i in range(6):
        item = dataset[i]
        assert item["image"].dtype == torch.float32
        torch.testing.assert_close(item["image"], expected[i], atol=1e-6, rtol=0)
        assert item.get("label") == (None if labels is None else labels[i])
        assert item["index"] == i


@pytest.mark.parametrize("name", SOURCES)
def test_other_processes_see_the_same(name, tmp_path):
    """Worker processes get a copy by fork, which is the default on Linux, or by pickle, after the source was used."""
    dataset = open_dataset(SOURCES[name][0](tmp_path), progress=False, random_flip=True, random_crop=True)
    alone = [dataset[i]["image"] for i in range(6)]
    copy = pickle.loads(pickle.dumps(dataset))
    for i, item in enumerate(torch.utils.data.DataLoader(dataset, None, num_workers=2)):
        assert torch.equal(item["image"], alone[i])
        assert torch.equal(copy[i]["image"], alone[i])


def test_spawned_workers_see_the_same(tmp_path):
    dataset = open_dataset(archive(tmp_path), progress=False)
    loader = torch.utils.data.DataLoader(dataset, None, num_workers=1, multiprocessing_context="spawn")
    for i, item in enumerate(loader):
        assert torch.equal(item["image"], dataset[i]["image"])


def test_digits_are_the_real_ones():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits()
    dataset = open_dataset("digits")
    assert len(dataset) == 1797
    assert dataset.num_classes == 10
    values = torch.from_numpy(load_digits.images[5] / 8 - 1).float()
    torch.testing.assert_close(dataset[5]["image"][0], values)
    assert dataset[5]["label"] == load_digits.target[5]
    assert open_dataset("digits", image_size=16)[0]["image"].shape == (1, 16, 16)


def test_shapes_are_drawn_by_number():
    dataset = open_dataset("shapes", image_size=32)
    assert dataset[7]["image"].shape == (3, 32, 32)
    assert torch.equal(dataset[7]["image"], open_dataset("shapes", image_size=32)[7]["image"])
    assert not torch.equal(dataset[7]["image"], dataset[10]["image"])
    assert [dataset[i]["label"] for i in range(4)] == [0, 1, 2, 0]


def test_idx_test_split(tmp_path):
    assert len(open_dataset(idx(tmp_path), split="test")) == 2


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_float_archives(tmp_path, low):
    values = np.random.default_rng(0).uniform(low, 1, (3, 4, 4)).astype(np.float32)
    values[0, 0, 0] = low
    np.savez(tmp_path / "a.npz", images=values)
    expected = torch.from_numpy(values) if low < 0 else torch.from_numpy(values) * 2 - 1
    dataset = open_dataset(tmp_path / "a.npz")
    torch.testing.assert_close(torch.stack([dataset[i]["image"][0] for i in range(3)]), expected)


def post_script(path):
    """Pillow would have Ghostscript run it."""
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage")


BROKEN = {
    "PostScript": post_script,
    "line of pixels": lambda p: Image.new("L", (60_000, 1)).save(p, format="PNG"),
    "not finite": lambda p: Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(p, format="TIFF"),
    "pipe": os.mkfifo,
    "link to itself": lambda p: p.symlink_to(p.name),
    "truncated": lambda p: p.write_bytes(jpeg(p)[:200]),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("this is no image"),
    "bomb": lambda p: Image.new("1", (20_000, 20_000)).save(p, format="PNG"),
    "folder": lambda p: p.mkdir(),
    "dangling link": lambda p: p.symlink_to("nowhere"),
}


def jpeg(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="JPEG")
    return path.read_bytes()


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_left_out_and_named(kind, tmp_path):
    root = make_folder(tmp_path / "images")
    BROKEN[kind](root / "broken.jpg")
    report = open_dataset(root, progress=False).report
    assert report.num_images == 6
    if kind == "folder":  # a folder is searched, not read
        assert report.left_out == []
        return
    ((name, reason),) = report.left_out
    assert name == "broken.jpg"
    assert reason
    assert f"left out 1:\n  broken.jpg: {reason}" in report.summary()
    with pytest.raises(InputError, match=r"broken\.jpg"):
        open_dataset(root, on_bad_image="error", progress=False)


def test_check_data_names_all(tmp_path):
    root = make_folder(tmp_path / "images", classes=True)
    for kind in BROKEN:
        BROKEN[kind](root / "class0" / f"{kind}.jpg")
    (root / "loop").symlink_to(root, target_is_directory=True)
    found = check_data(DataOptions(data=str(root)), progress=False)
    assert found.num_images == 6
    assert {name for name, _ in found.unusable} == {f"class0/{kind}.jpg" for kind in BROKEN if kind != "folder"}
    assert all(reason for _, reason in found.unusable)
    assert [name for name, _ in found.not_searched] == ["loop"]
    assert (found.smallest, found.largest) == ((8, 8), (8, 8))
    assert "6 images can be used, 8x8 pixels, colour, 3 classes; 10 cannot" in found.to_text()
    assert {"name": "loop", "reason": "a link to a folder is not followed"} in found.to_dict()["not_searched"]


def test_folders_that_cannot_be_searched_are_no_small_matter(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "images")
    (root / "closed").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"the folder closed in .* cannot be searched: Permission denied"):
        open_dataset(root, progress=False)
    assert check_data(DataOptions(data=str(root)), progress=False).unusable == [("closed", "Permission denied")]


def test_named_images_keep_their_places(tmp_path):
    root = make_folder(tmp_path / "images")
    before = open_dataset(root, progress=False)
    (root / before.source.names[2]).unlink()
    Image.new("L", (8, 8)).save(root / "0.png")
    after = open_dataset(root, names=before.file_names, progress=False)
    assert len(after) == 6
    assert [torch.equal(after[i]["image"], before[i]["image"]) for i in range(6) if i != 2] == [True] * 5
    assert after[2]["unreadable"]
    assert [name for name, _ in after.report.left_out] == [before.source.names[2]]


def test_a_small_archive_that_claims_much_is_not_unpacked(tmp_path):
    head = bytes((0, 0, 8, 3)) + struct.pack(">3I", 1, 8, 8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + bytes(50 * 2**20)))
    tracemalloc.start()
    with pytest.raises(InputError, match="damaged"):
        open_dataset(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    tracemalloc.stop()


def test_too_many_broken_files_stop(tmp_path):
    root = make_folder(tmp_path / "images")
    for i in range(3):
        (root / f"broken{i}.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="3 of 9 images"):
        open_dataset(root, progress=False)
    assert len(open_dataset(root, max_bad_images=0.5, progress=False)) == 6


def test_a_damaged_member_of_an_archive(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as out:
        for i in range(3):
            out.writestr(f"{i}.png", b"no" * 40)
        out.write(make_folder(tmp_path / "images") / "deep" / "er" / "bild-ü0.png", "good.png")
        out.writestr("__MACOSX/x.png", b"junk")
    report = open_dataset(path, max_bad_images=1, progress=False).report
    assert report.num_images == 1
    assert [name for name, _ in report.left_out] == ["0.png", "1.png", "2.png"]


def test_links_in_circles_end(tmp_path):
    root = make_folder(tmp_path / "images")
    (root / "loop").symlink_to(root, target_is_directory=True)
    assert len(open_dataset(root, progress=False)) == 6


def test_a_file_that_vanishes_later_is_replaced_and_named(tmp_path, caplog):
    root = make_folder(tmp_path / "images")
    dataset = open_dataset(root, progress=False)
    victim = root / dataset.source.names[2]
    os.remove(victim)
    first, second = dataset[2]["image"], dataset[2]["image"]
    assert torch.equal(first, second)
    assert any(torch.equal(first, dataset[i]["image"]) for i in range(6) if i != 2)
    assert [victim.name in r.message for r in caplog.records] == [True]
    shutil.rmtree(root)
    with pytest.raises(InputError, match="ten images in a row"):
        dataset[0]


WRONG = {
    "nothing there": (lambda p: p / "nope", "does not exist"),
    "no images": (lambda p: p, "holds no images"),
    "a text file": (lambda p: write(p / "a.txt", b"x"), "is not a kind of data"),
    "a false zip": (lambda p: write(p / "a.zip", b"x"), "zip archive"),
    "a false npz": (lambda p: write(p / "a.npz", b"x"), "NumPy archive"),
    "a pickle": (lambda p: savez(p, images=np.array([{}, {}], dtype=object)), "NumPy archive"),
    "no such array": (lambda p: savez(p, weights=np.zeros(3)), "expected an array named images"),
    "integers": (lambda p: savez(p, images=np.zeros((2, 4, 4), int)), "expected uint8 or float"),
    "range": (lambda p: savez(p, images=np.full((2, 4, 4), 7.0)), r"lie in \[7, 7\]"),
    "shape": (lambda p: savez(p, images=np.zeros((2, 4), np.uint8)), "expected .N, H, W."),
    "float labels": (lambda p: savez(p, images=GREY, labels=np.zeros(6)), "expected whole numbers"),
    "huge labels": (lambda p: savez(p, images=GREY, labels=np.full(6, 10**9)), "expected 0 to 99999"),
    "no pixels": (lambda p: savez(p, images=np.zeros((2, 0, 4), np.uint8)), "have no pixels"),
    "labels": (lambda p: savez(p, images=GREY, labels=np.zeros(2, int)), "must match"),
    "short idx": (lambda p: write(p / "a-images-idx3-ubyte", idx_bytes(GREY)[:-1]), "damaged"),
    "false idx": (lambda p: write(p / "a-images-idx3-ubyte", b"xyz" * 10), "not an IDX file"),
    "no hub": (lambda p: f"hf:{p / 'nothing'}", "cannot be opened"),
}


def write(path, content):
    path.write_bytes(content)
    return path


def savez(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return path / "a.npz"


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_opened(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if name == "no hub":
        pytest.importorskip("datasets")
    make, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        open_dataset(make(tmp_path), progress=False)


def test_missing_packages_name_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"continuous-unet\[digits\]"):
        open_dataset("digits")
    with pytest.raises(InputError, match=r"continuous-unet\[hub\]"):
        open_dataset("hf:mnist")


def test_class_names_are_in_natural_order():
    names = ["", "1", "9", "10", "a", "a1", "b", "cat 2", "cat 10", "x9a", "x9y", "x10a"]
    assert sorted_classes(reversed(names)) == names
