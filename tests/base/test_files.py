"""Files and folders that are whole or not there, whatever fails while they are written."""

import errno
import os

import pytest

from continuous_unet.base import files
from continuous_unet.base.errors import InputError
from continuous_unet.base.files import explain_write_errors, replace_file, replace_folder, replace_text


def test_replace_folder(tmp_path):
    target = tmp_path / "model"
    for content in ("a", "b"):

        def write(path, content=content):
            path.mkdir()
            (path / "x").write_text(content)

        replace_folder(target, write)
        assert (target / "x").read_text() == content
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_replace_text(tmp_path):
    for text in ("one", "two", "ünï ☃"):
        replace_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text("utf-8") == text
    replace_text(tmp_path / "a.txt", os.fsdecode(b"a name that is not UTF-8: \xff"))
    assert (tmp_path / "a.txt").read_text("utf-8").endswith("UTF-8: \\udcff")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


REASONS = {errno.ENOSPC: "No space left", errno.EDQUOT: "quota", errno.EROFS: "Read-only", errno.EACCES: "Permission"}


def write_half(aside):
    aside.write_text("half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("number", REASONS)
def test_the_reason_and_the_remedy_are_told(number, tmp_path):
    message = rf"x cannot be written \(.*{REASONS[number]}.*free some space"
    with pytest.raises(InputError, match=message), explain_write_errors(tmp_path / "x"):
        raise OSError(number, os.strerror(number))


def test_a_bug_is_not_explained_away():
    with pytest.raises(KeyError), explain_write_errors("x"):
        raise KeyError("bug")


@pytest.mark.parametrize("step", ["write", "sync", "rename"])
def test_a_failure_leaves_the_old_one_and_nothing_else(step, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    def folder(path, content="new"):
        path.mkdir()
        (path / "x").write_text(content)
        if content == "new" and step == "write":
            fail()

    replace_text(tmp_path / "file", "old")
    replace_folder(tmp_path / "folder", lambda path: folder(path, "old"))
    if step == "sync":
        monkeypatch.setattr(files, "sync", fail)
    if step == "rename":
        real = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: fail() if ".tmp" in str(a) else real(a, b))
    with pytest.raises(InputError):
        replace_file(tmp_path / "file", write_half if step == "write" else lambda aside: aside.write_text("new"))
    with pytest.raises(InputError):
        replace_folder(tmp_path / "folder", folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"
    assert (tmp_path / "folder" / "x").read_text() == "old"
