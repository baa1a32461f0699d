"""Captions of images: each place that they come from, and what is said when some are missing."""

import json
import shutil
from collections import Counter

import pytest
import torch
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.data import open_dataset, train_validation_split
from continuous_unet.data.sources.scenes import HELD_OUT, PAIRS, SHAPES, Scene, scenes_of

CAPTIONS = {"b/two.png": "a dog", "a.png": "a cat", "b/a_red fox_002.png": "a red fox"}
IN_ORDER = [CAPTIONS[name] for name in sorted(CAPTIONS)]


def images(path):
    for i, name in enumerate(CAPTIONS):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 50 * i).save(path / name)
    return path


def metadata(path, text="text"):
    rows = [{"file_name": name, text: caption, "size": 4} for name, caption in CAPTIONS.items()]
    (path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return path


def table(path):
    (path / "metadata.csv").write_text('file_name,text\na.png,"a\n cat"\n', encoding="utf-8-sig")
    (path / "b" / "metadata.csv").write_text("text,file_name\na dog,two.png\na red fox,a_red fox_002.png\n")
    return path


def texts(path):
    for name, caption in CAPTIONS.items():
        (path / name).with_suffix(".txt").write_text(caption + "\n")
    return path


def hub(path, column="text"):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [Image.new("L", (4, 4))] * 3, column: IN_ORDER, "other": ["x"] * 3}
    features = datasets.Features(
        {"image": datasets.Image(), **dict.fromkeys((column, "other"), datasets.Value("string"))}
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(path / "saved")
    return path / "saved"


@pytest.mark.parametrize(
    ("make", "mode"),
    [(metadata, "auto"), (metadata, "metadata"), (table, "auto"), (texts, "auto"), (texts, "txt"), (hub, "column")],
)
def test_captions_go_with_their_images(make, mode, tmp_path):
    source = make(images(tmp_path))
    assert open_dataset(source, captions=mode, progress=False).captions == IN_ORDER


def test_captions_of_an_archive_and_of_file_names(tmp_path):
    folder = texts(images(tmp_path / "images"))
    shutil.make_archive(str(tmp_path / "images"), "zip", tmp_path, "images")
    assert open_dataset(tmp_path / "images.zip", captions="auto", progress=False).captions == IN_ORDER
    names = open_dataset(folder, captions="filename", progress=False).captions
    assert names == ["a", "a red fox", "two"]


def test_a_column_can_be_chosen(tmp_path):
    source = metadata(images(tmp_path), "title")
    assert open_dataset(source, captions="auto", caption_column="title", progress=False).captions == IN_ORDER
    with pytest.raises(
        InputError, match=r"metadata.jsonl in .* has no column 'text', only file_name, title, size; name"
    ):
        open_dataset(source, captions="auto", progress=False)
    source = hub(tmp_path, "title")
    assert open_dataset(source, captions="auto", caption_column="title", progress=False).captions == IN_ORDER
    with pytest.raises(InputError, match="has no captions; name the column that holds them with --caption-column"):
        open_dataset(source, captions="auto", progress=False)


def test_what_is_missing_is_counted_and_named(tmp_path):
    source = texts(images(tmp_path))
    (source / "b" / "two.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"1 of 3 images in the folder .* have no caption, such as b/two.png; add"):
        open_dataset(source, captions="auto", progress=False)
    with pytest.raises(InputError, match=r"holds neither metadata.jsonl nor metadata.csv; choose another --captions"):
        open_dataset(source, captions="metadata", progress=False)
    (source / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n{"file_name')
    with pytest.raises(InputError, match=r"line 2 of metadata.jsonl in the folder .* is no JSON object"):
        open_dataset(source, captions="auto", progress=False)


def test_data_without_captions():
    with pytest.raises(InputError, match="shapes has no captions; train on a folder"):
        open_dataset("shapes", captions="auto")


def test_a_folder_without_captions(tmp_path):
    with pytest.raises(
        InputError, match=r"no text file .* and no metadata.jsonl or metadata.csv; add some, or take the"
    ):
        open_dataset(images(tmp_path), captions="auto", progress=False)


def test_captions_stay_with_their_images(tmp_path):
    """Also where a damaged image is left out, and where images are held out; tokens are those of the caption."""
    source = texts(images(tmp_path))
    (source / "a.png").write_bytes(b"no image")
    data = open_dataset(source, captions="auto", max_bad_images=1, progress=False)
    assert data.captions == IN_ORDER[1:]
    kept, held_out = train_validation_split(
        data.with_tokens(lambda lines: {"n": torch.tensor([[len(t)] for t in lines])}), 1
    )
    for part in (kept, held_out):
        assert [int(part[0]["n"])] == [len(caption) for caption in part.captions]
    assert sorted(kept.captions + held_out.captions) == sorted(data.captions)


def test_other_captions_are_noticed(tmp_path):
    source = texts(images(tmp_path))
    before = open_dataset(source, captions="auto", progress=False).report
    assert before.differences(before.to_dict()) == []
    (source / "a.txt").write_text("another cat")
    after = open_dataset(source, captions="auto", progress=False).report
    assert after.differences(before.to_dict()) == ["the captions are not the same"]
    assert "3 different captions, such as 'another cat'" in after.summary()


def test_held_out_pairs_are_only_in_the_test_scenes():
    seen, unseen = ({frozenset((s.first, s.second)) for s in scenes_of(part) if s.second} for part in ("train", "test"))
    assert unseen == {frozenset(pair) for pair in HELD_OUT}
    assert not seen & unseen
    assert len(seen | unseen) == len(PAIRS)
    partners = Counter(shape for pair in seen for shape in pair)
    assert min(partners[shape] for shape in SHAPES) >= 8  # every shape is seen beside most others
    for split, number in (("train", 32_768), ("test", 4_096)):
        data = open_dataset("scenes", split=split)
        assert len(data) == number
        assert set(map(Scene.parse, data.captions)) == set(scenes_of(split))
        assert torch.equal(data[5]["image"], open_dataset("scenes", split=split)[5]["image"])
