"""Many files: where results go, what is passed over, and one file's failure that stays its own."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.base.signals import StopRequest
from continuous_unet.tasks.files import FilesResult, Work, file_call, plan_files
from continuous_unet.tasks.options import FileOptions

CASES = Path(__file__).parents[1] / "cases"
COLOUR = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def unchanged(photograph, before_tile):
    before_tile()
    return photograph, {"extra": 1}


def run(inputs, output="out", restore=unchanged, *, stop=None, scale=1, **more):
    call = file_call(lambda options: Work(restore, {}, scale))
    return call(FileOptions(inputs=inputs, output=output, **more), stop=stop or StopRequest())


def plan(inputs, output="out", **more):
    return plan_files(FileOptions(inputs=inputs, output=output, **more), FilesResult(output))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "deep/c.gif"):
        Image.fromarray(COLOUR).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_where_results_go(folder):
    found = {str(source): str(target) for source, target in plan(["in"])}
    # what is read and cannot be written becomes a PNG
    assert found == {"in/a.png": "out/a.png", "in/b.jpg": "out/b.jpg", "in/deep/c.gif": "out/deep/c.png"}
    ((_, target),) = plan(["in/a.png"], "new.webp")
    assert str(target) == "new.webp"
    for inputs, output, message in (
        (["in"], "one.png", "one file and there are 3 inputs"),
        (["in"], "one.txt", "expected a folder"),
        (["in/a.png"], "in", "exists already"),
        (["in/a.png"], "in/b.jpg", "exists already"),
        (["in/a.png"], "in/notes.txt", "expected a folder"),
        (["in/a.png"], "in/b.jpg/deeper", "not a folder"),
    ):
        with pytest.raises(InputError, match=message):
            plan(inputs, output)
    assert plan(["in/a.png"], "in", overwrite=True)


def test_a_bad_file_does_not_keep_the_others(folder, capsys):
    (folder / "in" / "b.jpg").write_bytes(b"torn")
    result = run(["in", "missing.png"])
    assert sorted(p.name for p in (folder / "out").rglob("*") if p.is_file()) == ["a.png", "c.png"]
    assert [entry["extra"] for entry in result.files] == [1, 1]
    assert [entry["input"].rsplit("/")[-1] for entry in result.failed] == ["b.jpg", "missing.png"]
    assert result.megapixels == pytest.approx(2 * 63e-6)
    assert result.exit_code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "b.jpg" in line]
    assert len(lines) == 1


@pytest.mark.parametrize(
    "error", [ValueError("odd"), KeyError(), OSError("x"), RuntimeError(), MemoryError(), ZeroDivisionError()]
)
def test_whatever_one_file_raises_fails_that_file_alone(error, folder):
    def restore(photograph, before_tile):
        if photograph.pixels.shape[0] == 5:
            raise error
        return photograph, {}

    Image.new("RGB", (5, 5)).save(folder / "in" / "b.png")
    (folder / "in" / "b.jpg").unlink()
    result = run(["in"], restore=restore)
    assert [entry["input"] for entry in result.failed] == ["in/b.png"]
    assert type(error).__name__ in result.failed[0]["reason"]
    assert [entry["input"] for entry in result.files] == ["in/a.png", "in/deep/c.gif"]


def test_odd_files_go_on_and_impossible_results_are_named_before_the_work(folder):
    names = ["exif_garbage.jpg", "x_ascii_in_short.jpg", "x_slong_orientation.jpg", "i.png"]
    result = run([str(CASES / name) for name in names])
    assert [len(result.files), result.failed] == [4, []]
    assert result.files[1]["notes"] == ["left out: the damaged EXIF field ResolutionUnit"]

    def never(photograph, before_tile):
        raise AssertionError

    result = run([str(CASES / "wide.png")], "w.webp", never, scale=4)
    assert "16800x192 pixels, and WEBP holds at most 16383 a side" in result.failed[0]["reason"]


def test_two_results_of_one_name_fail_alone(folder):
    Image.new("RGB", (5, 5)).save(folder / "in" / "a.gif")
    result = run(["in"])
    assert sorted(entry["input"] for entry in result.failed) == ["in/a.gif", "in/a.png"]
    assert all("another input would become out/a.png too" in entry["reason"] for entry in result.failed)
    assert sorted(entry["input"] for entry in result.files) == ["in/b.jpg", "in/deep/c.gif"]
    assert result.to_text().startswith("2 of 4 images")
    assert len(plan(["in/b.jpg", "in/b.jpg"], "new")) == 1  # one file named twice is one file


def test_results_that_exist_are_skipped(folder):
    run(["in/a.png"])
    before = (folder / "out" / "a.png").stat().st_mtime_ns
    with pytest.raises(InputError, match="--skip-existing"):
        plan(["in"])
    result = run(["in"], skip_existing=True)
    assert (result.skipped, len(result.files)) == (["in/a.png"], 2)
    assert (folder / "out" / "a.png").stat().st_mtime_ns == before
    again = run(["in"], skip_existing=True)
    assert (len(again.skipped), again.files, again.exit_code) == (3, [], 0)
    with pytest.raises(InputError, match="contradict"):
        FileOptions(inputs=["in"], output="out", skip_existing=True, overwrite=True).validate()


def test_results_below_the_input_folder_are_no_inputs(folder):
    for _ in range(2):
        assert len(run(["in"], "in/clean", overwrite=True).files) == 3
    assert not (folder / "in" / "clean" / "clean").exists()


def test_hidden_files_are_passed_over_and_other_kinds_counted(folder):
    (folder / "in" / "._a.png").write_bytes(b"AppleDouble")
    (folder / "in" / "__MACOSX").mkdir()
    (folder / "in" / "__MACOSX" / "a.png").write_bytes(b"AppleDouble")
    for name in ("x.HEIC", "y.heic", "z.jxl"):
        (folder / "in" / name).write_bytes(b"")
    result = run(["in"])
    assert [len(result.files), result.failed] == [3, []]
    assert result.notes()[-1] == "left out, because these kinds are not read: 2 .heic, 1 .jxl"


def test_a_trailing_slash_is_a_folder(folder):
    run(["in/a.png"], "v1.5/")
    run(["in/a.png"], "out.png/")
    assert (folder / "v1.5" / "a.png").is_file()
    assert (folder / "out.png" / "a.png").is_file()


def test_a_file_of_several_frames_is_not_replaced_by_its_first(folder):
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    frames[0].save("pages.tif", save_all=True, append_images=frames[1:])
    before = Path("pages.tif").read_bytes()
    result = run(["pages.tif"], "pages.tif", overwrite=True)
    assert "only the first would be left" in result.failed[0]["reason"]
    assert Path("pages.tif").read_bytes() == before
    assert run(["pages.tif"], "one.tif").files[0]["notes"] == ["only the first of its 2 frames was read"]


def test_names_that_are_not_utf_8(folder):
    import json

    name = os.fsdecode(b"in/caf\xe9.png")
    Image.fromarray(COLOUR).save("plain.png")
    os.rename("plain.png", name)
    result = run(["in"])
    assert [len(result.files), result.failed] == [4, []]
    assert any(
        entry["output"] == os.fsdecode(b"out/caf\xe9.png")
        for entry in json.loads(json.dumps(result.to_dict()))["files"]
    )


def test_limits_and_ranges_reach_the_reader(folder):
    result = run(["in/a.png"], max_pixels=10)
    assert "limit of 10" in result.failed[0]["reason"]
    result = run([str(CASES / "float_hdr4.tif")], value_range="0:4")
    assert result.files[0]["notes"] == ["32-bit values were rounded to 16 bits"]
    for wrong in ("1", "4:0", "a:b", "0:inf", "nan:1"):
        with pytest.raises(InputError, match="must be LOW:HIGH"):
            FileOptions(inputs=["in"], output="out", value_range=wrong).validate()


def test_a_signal_ends_the_work_between_pieces(folder):
    stop = StopRequest()

    def restore(photograph, check):
        stop.signal = 15
        check()

    result = run(["in"], restore=restore, stop=stop)
    assert (result.stopped_by, result.exit_code, result.files, result.failed) == (15, 143, [], [])
    assert result.notes() == ["stopped; 0 of 3 files are done"]
    assert not (folder / "out").exists() or not any((folder / "out").iterdir())
