"""The pictograms of `benchmarks/`, with a small package of made-up emoji and without a network."""

import base64
import hashlib
import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from continuous_unet.data import open_dataset

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import pictograms

HEART = '<path fill="{}" d="M8 15L1 7Q2 1 8 5Q14 1 15 7z"/>'
ICONS = {
    "icons": {
        "red-heart": {"body": HEART.format("red")},
        "crimson-heart": {"body": HEART.format("#fe0000")},
        "white-heart": {"body": HEART.format("#fdfdfd")},
        "blue-heart": {"body": HEART.format("blue")},
        "blue-heart-dark-skin-tone": {"body": HEART.format("black")},
        "flag-for-flag-red": {"body": '<rect fill="red" width="16" height="8"/>'},
        "wide": {"body": '<rect fill="lime" x="3" y="2" width="30" height="6"/>', "width": 40, "height": 10},
        "other": {"body": '<circle fill="blue" r="16"/>'},
        "empty": {"body": "<g/>"},
    },
    "aliases": {"old-name": {"parent": "wide"}, "turned": {"parent": "blue-heart", "rotate": 1}},
}
NAMES = [
    *((name, "heart") for name in ("red heart", "crimson heart", "white heart", "blue heart", "no such heart")),
    ("blue heart: dark skin tone", "heart"),
    *((name, "flag") for name in ("flag: Red", "old name", "turned", "empty", "other")),
]


def packed(package, folder, **files):
    """Writes a package as npm has it, and returns it with its hash."""
    with tarfile.open(folder / package.archive, "w:gz") as archive:
        for name, content in files.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/{name.replace('_', '.')}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found = hashlib.sha512((folder / package.archive).read_bytes()).digest()
    return replace(package, sha512=base64.b64encode(found).decode())


@pytest.fixture
def packages(tmp_path, monkeypatch):
    entries = [{"name": name, "subgroup": group} for name, group in NAMES]
    about = {"package_json": {"license": "MIT"}, "info_json": {"license": {"spdx": "MIT"}}}
    names = packed(pictograms.Package("names", "1", "", "MIT"), tmp_path, **about, emoji_json=entries)
    icons = pictograms.Package("@made/up", "1", "", "MIT", "A Person", "https://example.org")
    monkeypatch.setattr(pictograms, "NAMES", names)
    monkeypatch.setattr(pictograms, "SETS", [packed(icons, tmp_path, **about, icons_json=ICONS)])
    monkeypatch.setattr(pictograms, "CLASSES", {"heart": {"heart": ""}, "sign": {"flag": "-other"}})
    return tmp_path


def test_training_reads_what_is_drawn(packages, tmp_path, capsys):
    pictograms.make(tmp_path / "out", packages, size=16, margin=2, sheets=tmp_path / "sheets")
    data = open_dataset(tmp_path / "out", captions="metadata", progress=False)
    # without those that can hardly be seen, are there already, stand for a skin tone, are turned, empty or not taken
    found = dict(zip(data.source.names, data.captions, strict=True))
    assert found == {
        "heart/blue-heart_up.png": "blue heart",
        "heart/red-heart_up.png": "red heart",
        "sign/flag-red_up.png": "flag of Red",
        "sign/old-name_up.png": "old name",
    }
    assert data.report.class_names == ["heart", "sign"]
    image = Image.open(tmp_path / "out/sign/old-name_up.png")
    assert image.size == (20, 20)
    assert Image.eval(image.getchannel("R"), lambda v: 255 - v).getbbox() == (2, 8, 18, 11)  # 16 wide, in the middle
    assert image.getpixel((10, 9)) == (0, 255, 0)
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert "A Person, MIT" in (tmp_path / "out/LICENCES.md").read_text("utf-8")
    assert Image.open(tmp_path / "sheets/heart.png").height == 20


def test_another_archive_or_licence_is_refused(packages, tmp_path):
    with pytest.raises(SystemExit, match="states the licence MIT, not CC0"):
        pictograms.check_licence(replace(pictograms.NAMES, licence="CC0"), packages / "names-1.tgz")
    (packages / "names-1.tgz").write_bytes(b"another")
    with pytest.raises(SystemExit, match="not the archive that this script knows"):
        pictograms.make(tmp_path / "out", packages)


def test_the_licences_allow_shipping_and_the_authors_are_named():
    text = pictograms.attribution()
    for package in pictograms.SETS:
        assert package.licence in ("Apache-2.0", "MIT", "CC-BY-4.0")
        assert package.author in text
        assert package.source in text
