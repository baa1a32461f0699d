"""Files and folders that are whole or not there, whatever fails while they are written."""

import errno
import os

import pytest

from continuous_unet.base import files
from continuous_unet.base.errors import InputError
from continuous_unet.base.files import (
    check_output,
    check_outputs,
    explain_write_errors,
    replace_file,
    replace_folder,
    replace_text,
)


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


def test_replace_folder_makes_what_is_above_it(tmp_path):
    replace_folder(tmp_path / "a" / "b", lambda path: path.mkdir())
    assert (tmp_path / "a" / "b").is_dir()


def test_a_new_place_may_be_written(tmp_path):
    assert check_output(tmp_path / "a" / "b.png", overwrite=False) == tmp_path / "a" / "b.png"
    assert check_output(f"{tmp_path}/a/b/", overwrite=False, mark="x.json") == tmp_path / "a" / "b"
    (tmp_path / "empty").mkdir()
    assert check_output(tmp_path / "empty", overwrite=False, mark="x.json") == tmp_path / "empty"
    assert not (tmp_path / "a").exists(), "nothing is made"


def test_an_earlier_result_is_replaced_only_if_that_is_allowed(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "x.json").touch()
    for name, mark, message in (
        ("file", None, "file exists already"),
        ("old", "x.json", r"already holds a result \(export\)"),
    ):
        with pytest.raises(InputError, match=rf"{message}; go elsewhere, or replace it with --overwrite"):
            check_output(tmp_path / name, overwrite=False, mark=mark, what="export", instead="go elsewhere")
        assert check_output(tmp_path / name, overwrite=True, mark=mark) == tmp_path / name


REFUSED = {
    "foreign folder": ("foreign", "x.json", "is not empty and is not an earlier result; name a new folder"),
    "a file for a folder": ("file", "x.json", "file is a file; name a new folder"),
    "a folder for a file": ("foreign", None, "foreign is a folder; name a new file"),
    "below a file": ("file/below", None, "file is not a folder that may be written to"),
    "nothing": ("", None, "'' cannot be created; name a new file"),
    "here": (".", "x.json", "'.' cannot be created; name a new folder"),
    "above": ("..", "x.json", "cannot be created; name a new folder"),
    "no name": ("a\0b", "x.json", "cannot be created; name a new folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_place_for_a_result_is_refused(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine").touch()
    (tmp_path / "file").touch()
    name, mark, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as error:
        check_output(name, overwrite=True, mark=mark)
    assert "\n" not in str(error.value)


def test_several_results_go_to_one_file_or_to_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v2.png").mkdir()
    (tmp_path / "file").touch()

    def places(output, overwrite=False):
        return [
            str(place) for place in check_outputs(output, ["a.png", "b.png"], [".png", ".tif"], overwrite=overwrite)
        ]

    assert places("one.TIF") == ["one.TIF"]
    for folder in ("new", "v1.5/", "v2.png", "."):
        assert places(folder) == [os.path.normpath(f"{folder}/a.png"), os.path.normpath(f"{folder}/b.png")]
    (tmp_path / "b.png").touch()
    for output, message in ((".", "b.png exists already"), ("b.png", "b.png exists already")):
        with pytest.raises(InputError, match=message):
            places(output)
        assert places(output, overwrite=True)[-1] == "b.png"
    for output, message in (
        ("one.gif", r"expected a folder, which may end with /, or a name that ends in \.png, \.tif"),
        ("file", "is a file; name a new .png or .tif file, or a folder"),
        ("file/below/x.png", "file is not a folder that may be written to"),
        ("file/below", "file is not a folder that may be written to"),
    ):
        with pytest.raises(InputError, match=message):
            places(output)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(InputError, match="closed is not a folder that may be written to"):
        check_output(tmp_path / "closed" / "x", overwrite=False)


def test_a_file_makes_the_folder_above_it(tmp_path):
    replace_text(tmp_path / "a" / "b.txt", "text")
    assert (tmp_path / "a" / "b.txt").read_text() == "text"
