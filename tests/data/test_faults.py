"""Data sets as people and programs make them: their values, classes and files are read as meant, or refused by name."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from continuous_unet.base.errors import InputError
from continuous_unet.data import open_dataset
from continuous_unet.data.check import check_data
from continuous_unet.data.options import DataOptions
from continuous_unet.data.streaming import open_stream

CASES = Path(__file__).parent.parent / "cases"


def opened(path, **options):
    return open_dataset(path, progress=False, **options)


def checked(path, **options):
    return check_data(DataOptions(data=str(path), **options), progress=False)


def picture(path, value=0, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def tree(root, *names, value=0):
    for i, name in enumerate(names):
        picture(root / name, (value + i, 0, 0))
    return root


def zipped(root, path):
    with zipfile.ZipFile(path, "w") as out:
        for file in sorted(p for p in root.rglob("*") if p.is_file()):
            out.write(file, file.relative_to(root).as_posix())
    return path


def stream_of(path, **options):
    usual = {"image_size": 8, "channels": None, "fit": "crop", "random_flip": False, "random_crop": False, "seed": 0}
    return open_stream(str(path), **{**usual, "max_bad_images": 0.01, "readers": 1, **options})


def float_image(path, low, high, dtype=np.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.linspace(low, high, 64).reshape(8, 8).astype(dtype)).save(path)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mean"),
    [("float01.tif", 0.498), ("float_overshoot.tif", 0.542), ("int32_8bit.tif", 0.5), ("g16.png", 0.498)],
)
def test_the_usual_ranges_are_found(name, mean, tmp_path):
    (tmp_path / name).write_bytes((CASES / name).read_bytes())
    item = opened(tmp_path, image_size=32)[0]["image"] / 2 + 0.5
    assert float(item.mean()) == pytest.approx(mean, abs=0.03)
    assert checked(tmp_path).exit_code == 0


def test_one_range_for_all_images_of_a_source(tmp_path):
    """Dark images of a set that counts to 255 stay dark, though alone they would count as [0, 1]."""
    float_image(tmp_path / "dark.tif", 0, 0.9)
    float_image(tmp_path / "light.tif", 0, 250)
    data = opened(tmp_path)
    assert float(data[0]["image"].max()) == pytest.approx(0.9 / 255 * 2 - 1, abs=1e-6)
    assert float(data[1]["image"].max()) == pytest.approx(250 / 255 * 2 - 1, abs=1e-6)
    (deep,) = data.report.deep
    assert (deep.kind, deep.number, deep.smallest, deep.largest, deep.black, deep.white) == ("float", 2, 0, 250, 0, 255)
    line = "2 float images have values from 0 to 250; 0 is taken as black and 255 as white (--value-range)"
    assert line in data.report.summary()
    assert line in checked(tmp_path).to_text()
    assert data.report.to_dict()["deep"][0]["white"] == 255


@pytest.mark.parametrize("name", ["float_hdr4.tif", "int32_76500.tif"])
def test_unusual_ranges_need_a_choice(name, tmp_path):
    (tmp_path / name).write_bytes((CASES / name).read_bytes())
    with pytest.raises(InputError, match=rf"{name}.*no usual range.*--value-range"):
        opened(tmp_path, image_size=8)
    found = checked(tmp_path)
    assert found.exit_code == 1
    assert "no usual range" in found.to_text()
    assert checked(tmp_path, value_range="0:70000").exit_code == 0


def test_a_chosen_range_is_used(tmp_path):
    float_image(tmp_path / "a.tif", -1, 3)
    item = opened(tmp_path, value_range="-1:3")[0]["image"].flatten()
    torch.testing.assert_close(item, torch.linspace(-1, 1, 64))
    item = opened(tmp_path, value_range=(0, 1))[0]["image"].flatten()
    assert (item.min(), item.max()) == (-1, 1)  # cut off
    float_image(tmp_path / "a.tif", 0, 4095, np.uint16)
    assert float(opened(tmp_path, value_range="0:4095")[0]["image"].max()) == 1
    assert float(opened(tmp_path)[0]["image"].max()) == pytest.approx(4095 / 65535 * 2 - 1, abs=1e-6)
    for wrong in ("1:0", "a:b", "3", "0:inf", "nan:1"):
        with pytest.raises(InputError, match="must be LOW:HIGH"):
            opened(tmp_path, value_range=wrong)


def test_arrays_follow_the_same_rule(tmp_path):
    values = np.linspace(0, 1.003, 2 * 64, dtype=np.float32).reshape(2, 8, 8)
    np.savez(tmp_path / "a.npz", images=values)
    torch.testing.assert_close(opened(tmp_path / "a.npz")[0]["image"][0], torch.from_numpy(values[0] * 2 - 1))
    np.savez(tmp_path / "b.npz", images=(values * 4000).astype(np.uint16))
    with pytest.raises(InputError, match="value-range"):
        opened(tmp_path / "b.npz")
    item = opened(tmp_path / "b.npz", value_range="0:4000")[1]["image"][0]
    torch.testing.assert_close(item, torch.from_numpy(values[1].clip(0, 1) * 2 - 1), atol=1e-3, rtol=0)
    np.savez(tmp_path / "c.npz", images=np.repeat(values[..., None], 3, 3))
    assert opened(tmp_path / "c.npz").report.channels == 3


def test_the_range_is_part_of_what_must_stay_the_same(tmp_path):
    float_image(tmp_path / "a.tif", 0, 1)
    before = opened(tmp_path).report.to_dict()
    float_image(tmp_path / "a.tif", 0.1, 0.8)  # within the same range
    assert opened(tmp_path).report.differences(before) == []
    float_image(tmp_path / "a.tif", 0, 200)
    (changed,) = opened(tmp_path).report.differences(before)
    assert changed == "value range of float images (0, 1) -> (0, 255)"
    del before["deep"]  # a run of before there was such a fact
    assert opened(tmp_path).report.differences(before) == []


def test_lost_bits_are_reported(tmp_path):
    for name in ("la16.png", "rgb16.png", "g16.png", "i.png"):
        (tmp_path / name).write_bytes((CASES / name).read_bytes())
    line = "2 with 16 bits per channel in colour or with transparency, read as 8 bits"
    assert line in checked(tmp_path).to_text()
    assert line in opened(tmp_path, image_size=8).report.summary()


# --- classes and splits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["back.zip", "abs.zip"])
def test_names_as_other_programs_write_them(name):
    data = opened(CASES / name)
    assert data.report.class_names == ["cat", "dog"]
    assert [data[i]["label"] for i in range(3)] == [0, 0, 1]
    assert data.source.names == ["cat/1.png", "cat/2.png", "dog/1.png"]
    assert checked(CASES / name).num_images == 3


def test_absolute_and_relative_names_in_one_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        for name in ("/cat/1.png", "dog/1.png"):
            out.writestr(name, (CASES / "i.png").read_bytes())
    data = opened(tmp_path / "a.zip")
    assert data.report.class_names == ["cat", "dog"]
    assert data.source.names == ["cat/1.png", "dog/1.png"]


LAYOUTS = {
    "classes": (("cat/1.png", "dog/1.png"), ["cat", "dog"]),
    "nested": (("all/photos/cat/1.png", "all/photos/dog/1.png"), ["cat", "dog"]),
    "flat": (("1.png", "2.png"), None),
    "one folder": (("cat/1.png", "cat/2.png"), None),
    "deep classes": (("cat/x/1.png", "dog/y/z/1.png"), ["cat", "dog"]),
    "numbers": (("2/1.png", "10/1.png", "1/1.png"), ["1", "2", "10"]),
    "splits": (("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/owl/1.png"), ["cat", "dog"]),
    "splits inside": (("set/train/cat/1.png", "set/train/dog/1.png", "set/val/cat/1.png"), ["cat", "dog"]),
    "splits without classes": (("train/1.png", "test/1.png"), None),
    "classes named like one split": (("test/1.png", "other/1.png"), ["other", "test"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_and_its_zip_have_the_same_classes(name, tmp_path):
    names, classes = LAYOUTS[name]
    root = tree(tmp_path / "root", *names)
    results = []
    for source in (root, zipped(root, tmp_path / "a.zip"), zipped(tmp_path / "root", tmp_path / "b.zip")):
        data = opened(source)
        assert data.report.class_names == classes
        items = [data[i] for i in range(len(data))]
        results.append([(float(item["image"][0, 0, 0]), item.get("label")) for item in items])
    assert results[0] == results[1] == results[2]


def test_split_folders_are_no_classes(tmp_path):
    root = tree(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dog/2.png", "val/dog/3.png")
    assert opened(root).source.names == ["train/cat/1.png", "train/dog/1.png"]
    assert len(opened(root, split="test")) == 3
    tree(root, "test/cat/9.png", "test/dog/9.png")
    assert opened(root, split="test").source.names == ["test/cat/9.png", "test/dog/9.png"]
    picture(root / "beside.png")
    with pytest.raises(InputError, match=r"1 images outside of them, such as beside\.png"):
        opened(root)


def test_a_stray_image_is_named(tmp_path):
    root = tree(tmp_path, "cat/1.png", "dog/1.png", "stray.png")
    report = opened(root).report
    assert report.class_names is None
    assert "such as stray.png" in report.why_no_classes
    assert report.why_no_classes in report.summary()
    assert "such as stray.png" in checked(root).to_text()


def test_a_run_keeps_its_classes(tmp_path):
    root = tree(tmp_path, "10/1.png", "2/1.png", "stray.png")
    names = ["10/1.png", "2/1.png"]
    assert opened(root, names=names).report.class_names == ["2", "10"]
    old = opened(root, names=names, class_names=["10", "2"])
    assert old.report.class_names == ["10", "2"]
    assert [old[i]["label"] for i in range(2)] == [0, 1]
    assert opened(root, names=names, class_names=[]).report.class_names is None
    tree(root, "train/1.png", "test/1.png")  # of before they were splits
    assert opened(root, names=["test/1.png", "train/1.png"], class_names=["test", "train"])[1]["label"] == 1


# --- files that are not read ------------------------------------------------------------------------------------------


def test_other_kinds_are_counted(tmp_path):
    tree(tmp_path, "a.png")
    for name in ("a.heic", "b.HEIC", "c.dng", "notes.txt", "._d.heic"):
        (tmp_path / name).write_bytes(b"x")
    assert "left aside: 1 .dng, 2 .heic (not read)" in opened(tmp_path).report.summary()
    assert "left aside: 1 .dng, 2 .heic (not read)" in checked(tmp_path).to_text()
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"holds no images .*left aside: 1 \.dng, 2 \.heic"):
        opened(tmp_path)


@pytest.mark.parametrize(("feature", "ending"), [("avif", ".avif"), ("jpg_2000", ".jp2")])
def test_kinds_that_pillow_may_read(feature, ending, tmp_path):
    if not features.check(feature):
        pytest.skip(f"this build of Pillow has no {feature}")
    Image.new("RGB", (16, 16), (200, 0, 0)).save(tmp_path / f"a{ending}")
    item = opened(tmp_path)[0]["image"]
    torch.testing.assert_close(item[:, 8, 8], torch.tensor([200 / 127.5 - 1, -1, -1]), atol=0.05, rtol=0)


HIDDEN = ("._a.png", "__MACOSX/._a.png", "__MACOSX/b.png", ".thumbnails/a.png")


def test_apple_double_files_are_no_images(tmp_path):
    root = tree(tmp_path / "root", "a.png", "b.png")
    for name in HIDDEN:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"Mac OS X")
    assert len(opened(root)) == len(opened(zipped(root, tmp_path / "a.zip"))) == 2
    assert checked(root).unusable == []


def test_apple_double_files_in_shards(tmp_path, caplog):
    pytest.importorskip("webdataset")
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        buffer = io.BytesIO()
        Image.new("L", (8, 8), 50).save(buffer, format="PNG")
        for name, content in (("._a.png", b"Mac OS X"), ("a.png", buffer.getvalue()), ("__MACOSX/b.png", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    loader = stream_of(tmp_path, max_bad_images=0).loader(2)
    assert next(loader)[1]["unreadable"].tolist() == [False, False]
    assert caplog.text == ""


def test_streams_refuse_values_that_need_a_choice(tmp_path, caplog):
    pytest.importorskip("webdataset")
    import tarfile

    for name, high in (("a", 1.0), ("b", 200.0)):
        float_image(tmp_path / f"{name}.tif", 0, high)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.tif", "b.tif"):
            tar.add(tmp_path / name, name)
    usual = next(stream_of(tmp_path / "a.tar", max_bad_images=1).loader(2))[1]["image"]
    assert [float(image.max()) for image in usual] == [1, 1]  # the first one twice
    chosen = next(stream_of(tmp_path / "a.tar", value_range="0:200").loader(2))[1]["image"]
    assert sorted(float(image.max()) for image in chosen) == pytest.approx([-0.99, 1])
    assert "--value-range" in caplog.text


# --- Hugging Face sets ------------------------------------------------------------------------------------------------


def hub(path, pictures, labels=None):
    datasets = pytest.importorskip("datasets")
    table, kinds = {"picture": pictures}, {"picture": datasets.Image()}
    if labels is not None:
        table["kind"], kinds["kind"] = labels, datasets.ClassLabel(names=["a", "b"])
    datasets.Dataset.from_dict(table, features=datasets.Features(kinds)).save_to_disk(path)
    return f"hf:{path}"


def test_all_images_of_a_hub_set_are_looked_at(tmp_path):
    grey, colour, large = Image.new("L", (8, 8)), Image.new("RGB", (8, 8), "red"), Image.new("RGB", (12, 8))
    assert opened(hub(tmp_path / "a", [grey, colour])).report.channels == 3
    with pytest.raises(InputError, match="8x8 to 12x8 pixels"):
        opened(hub(tmp_path / "b", [grey, large]))


def test_missing_images_of_a_hub_set_are_unreadable(tmp_path):
    shades = [Image.new("L", (8, 8), 50 * i) for i in range(3)]
    source = hub(tmp_path / "a", [shades[0], None, shades[1], shades[2]], [0, 1, 1, 0])
    data = opened(source)
    assert data.report.left_out == [(f"{tmp_path / 'a'}[1]", "the image is missing (None)")]
    assert [round(float(data[i]["image"].mean() + 1) * 127.5) for i in range(3)] == [0, 50, 100]
    assert [data[i]["label"] for i in range(3)] == [0, 1, 0]
    assert checked(source).exit_code == 1


def test_missing_labels_of_a_hub_set_are_named(tmp_path):
    shades = [Image.new("L", (8, 8), i) for i in range(3)]
    for i, missing in enumerate((-1, None)):
        with pytest.raises(InputError, match=r"2 of 3 labels of the data set .*column 'kind', are missing.* image 0"):
            opened(hub(tmp_path / f"{i}", shades, [missing, 0, missing]))
    report = opened(hub(tmp_path / "all", shades, [-1, -1, -1])).report
    assert report.class_names is None
    assert "all labels of its column 'kind' are missing" in report.summary()


# --- processes and sizes ----------------------------------------------------------------------------------------------


def test_forked_workers_do_not_share_a_position_in_an_archive(tmp_path):
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as out:
        for i in range(120):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(buffer, format="PNG")
            out.writestr(f"{i:03}.png", buffer.getvalue())
    data = opened(tmp_path / "a.zip")
    loader = data.loader(8, num_workers=4)  # with the default start method
    batches = [next(loader)[1] for _ in range(45)]
    loader.close()
    assert not any(batch["unreadable"].any() for batch in batches)
    for batch in batches[::9]:
        assert torch.equal(batch["image"], torch.stack([data[int(i)]["image"] for i in batch["index"]]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_an_archive_is_opened_anew_in_each_process():
    source = opened(CASES / "back.zip").source
    before = source._archive()
    child = os.fork()
    if child == 0:
        os._exit(0 if source._archive() is not before and source._archive() is source._archive() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert source._archive() is before


def test_the_limit_of_pixels_can_be_raised(tmp_path, monkeypatch):
    from continuous_unet.images import decode

    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    picture(tmp_path / "large.png", size=(20, 20))
    picture(tmp_path / "small.png")
    assert [name for name, _ in opened(tmp_path).report.left_out] == ["large.png"]
    assert "--max-pixels" in checked(tmp_path).to_text()
    assert len(opened(tmp_path, image_size=8, max_pixels=400)) == 2
    assert checked(tmp_path, max_pixels=400).exit_code == 0


@pytest.mark.parametrize("size", ["4x6", (4, 6)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch", "patch"])
def test_images_that_are_not_square(fit, size, tmp_path):
    picture(tmp_path / "a.png", size=(20, 10))
    data = opened(tmp_path, image_size=size, fit=fit)
    assert data[0]["image"].shape == (3, 4, 6)
    assert data.report.size == data.report.image_size == (4, 6)
    assert data.report.to_dict()["image_size"] == [4, 6]
    assert "used as 6x4 RGB" in data.report.summary()
    assert opened(tmp_path, image_size="6").report.image_size == 6
    for wrong in ("6x", "axb", 0, "0x4", "4x6x3", -2):
        with pytest.raises(InputError, match="image_size"):
            opened(tmp_path, image_size=wrong)


def test_data_that_moved_is_compared(tmp_path):
    before = opened(tree(tmp_path / "a", "cat/1.png", "dog/1.png")).report.to_dict()
    same = opened(tree(tmp_path / "b", "cat/1.png", "dog/1.png")).report
    assert same.differences(before, moved=True) == []
    picture(tmp_path / "b" / "dog" / "1.png", size=(12, 9))
    other = opened(tmp_path / "b", image_size=8).report
    assert other.differences(before) == []
    assert other.differences(before, moved=True) == ["largest [8, 8] -> [12, 9]"]
    (tmp_path / "b" / "dog" / "1.png").unlink()
    names = ["cat/1.png", "dog/1.png"]
    gone = opened(tmp_path / "b", names=names, image_size=8).report
    assert gone.differences(before, moved=True) == ["1 images are missing or unreadable, such as dog/1.png"]
