"""Batches of photographs and masks that are not what one hopes for: a file fails alone and is named, or is restored."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from images import BAD, CASES, copy_case, encoded, with_files
from lab import Lab, fresh, one_line, run, tiny, train_arguments
from PIL import Image

MASKS = ("m255.png", "m01.png", "m_pal_red.png", "m_i32.tif", "m_la.png")
"""One mask as people draw it: 0 and 255, 0 and 1, a palette, 32 bits, transparency."""


def odd_exif(folder: Path) -> None:
    for name in ("exif_garbage.jpg", "x_ascii_in_short.jpg", "x_slong_orientation.jpg"):
        copy_case(name, folder / name)


def damaged(folder: Path) -> None:
    for number, (name, make) in enumerate(BAD.values()):
        make(folder / f"{number}{name}")


BATCHES: dict[str, tuple[Callable[[Path], object], int, set[str], str]] = {
    "odd EXIF data": (odd_exif, 3, set(), ""),
    "wider than WebP can hold": (
        lambda p: Image.new("L", (8200, 96)).save(p / "wide.webp"), 0, {"wide.webp"}, "holds at most 16383 a side"),
    "two results of one name": (
        lambda p: with_files(p, encoded("PNG"), "a.gif", "a.png"), 0, {"a.gif", "a.png"}, "another input would become"),
    "AppleDouble files": (lambda p: with_files(p, b"Mac OS X", "._good.png", "__MACOSX/good.png"), 0, set(), ""),
    "kinds that are not read": (lambda p: with_files(p, b"x", "1.heic", "2.dng"), 0, set(), ""),
    "names that no terminal can show": (
        lambda p: with_files(p, encoded("PNG"), "a\nb.png", os.fsdecode(b"a\xff\xfe.png"), "🙂.png"), 3, set(), ""),
    "damaged files": (
        damaged, 0, {f"{k}{name}" for k, (name, _) in enumerate(BAD.values()) if k < 9}, ""),
}  # fmt: skip
"""What lies beside one good photograph, how many of these are restored, which ones fail, and the reason given."""


def main(lab: Lab) -> None:
    fresh(lab.folder)
    photos, output = lab.folder / "photos", lab.folder / "out"
    for case, (make, restored, failing, reason) in list(BATCHES.items())[: lab.number(len(BATCHES), 3)]:
        make(with_files(fresh(photos), encoded("PNG"), "good.png"))
        bad = batch(lab, photos, output, restored + 1, failing, reason)
        lab.row("batches", f"a file fails alone: {case}" if failing else f"restored: {case}", 1, bad)
    if lab.short:
        return
    with_files(fresh(photos), encoded("PNG"), "a.png", "sub/b.png")
    bad = [fault for _ in range(2) for fault in batch(lab, photos, photos / "results", 2, set(), "", "--overwrite")]
    lab.row("batches", "results below the inputs do not become inputs", 2, bad)
    before = [(p, p.stat().st_mtime_ns) for p in sorted((photos / "results").rglob("*.png"))]
    bad = batch(lab, photos, photos / "results", 0, set(), "", "--skip-existing")
    bad += [] if before == [(p, p.stat().st_mtime_ns) for p, _ in before] else ["results were written again"]
    bad += one_line(run(upscale(photos, photos / "results"), lab.folder), 2, "exists already")
    lab.row("batches", "results that exist are skipped, or refused", 2, bad)
    with_files(fresh(photos), encoded("PNG"), "a.png", "sub/b.png")
    bad = batch(lab, photos, f"{lab.folder}/v1.5/", 2, set(), "")
    bad += [] if (lab.folder / "v1.5" / "sub" / "b.png").is_file() else ["v1.5/ did not become a folder"]
    lab.row("batches", "a name that ends with a slash is a folder", 1, bad)
    masks(lab)


def upscale(photos: Path, output: Path | str, *more: str) -> list[str]:
    return ["upscale", str(photos), "--output", str(output), "--device", "cpu", "--json", *more]


def batch(
    lab: Lab, photos: Path, output: Path | str, restored: int, failing: set[str], reason: str, *more: str
) -> list[str]:
    """Lists what is wrong with how a folder is enlarged; `failing` are the files that should fail, for this reason."""
    if not more:
        fresh(Path(output))
    child = run(upscale(photos, output, *more), lab.folder)
    if child.code != (2 if failing else 0) or "Traceback" in child.errors or "internal error" in child.errors:
        return [f"exit code {child.code}: {child.errors[-800:]}"]
    found = json.loads(child.output)
    names = {Path(entry["input"]).name for entry in found["failed"]}
    bad = [] if len(found["files"]) == restored else [f"{len(found['files'])} results instead of {restored}"]
    bad += [] if all(Path(entry["output"]).is_file() for entry in found["files"]) else ["a result is missing"]
    bad += [] if names == failing else [f"{names} failed instead of {failing}"]
    return bad + [f"reason: {e['reason']!r}" for e in found["failed"] if reason not in e["reason"] or not e["reason"]]


def masks(lab: Lab) -> None:
    """Every kind of mask marks the same pixels, no other pixel changes, and a mask of nothing is refused."""
    assert run(train_arguments(tiny(lab.folder / "run", steps=2), lab.folder), lab.folder).code == 0
    common = ["inpaint", str(CASES / "i.png"), "--model", str(lab.folder / "run"), "--device", "cpu", "--overwrite"]
    common += ["--steps", "4", "--jump-length", "2", "--output", str(lab.folder / "filled.png")]
    hole = np.asarray(Image.open(CASES / "m255.png")) > 127
    given = np.asarray(Image.open(CASES / "i.png"))
    for name in MASKS:
        child = run([*common, "--mask", str(CASES / name)], lab.folder)
        bad = [] if child.code == 0 else [child.errors[-800:]]
        if not bad:
            changed = np.asarray(Image.open(lab.folder / "filled.png")) != given
            bad += ["other pixels changed"] if changed[~hole].any() else []
            bad += [] if changed[hole].mean() > 0.5 else ["the hole was not filled"]
        lab.row("batches", f"a mask of any kind: {name}", 1, bad)
    bad = []
    for value, word in ((0, "none"), (255, "all")):
        Image.new("L", given.shape[1::-1], value).save(lab.folder / "mask.png")
        refused = run([*common, "--mask", str(lab.folder / "mask.png")], lab.folder)
        bad += one_line(refused, 2, f"the mask marks {word} of its")
    lab.row("batches", "a mask of nothing, or of everything, is refused", 2, bad)
