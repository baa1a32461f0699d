"""Every kind of image file that is not what one hopes for: used rightly, or left out and named; never a crash."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lab import Lab, fresh, one_line, resume_arguments, run, tiny, train_arguments
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def palette_with_alpha(path: Path) -> None:
    image = Image.fromarray(PIXELS).quantize(16)
    image.save(path, transparency=3)


def animated(path: Path) -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(path, exif=exif)


CASES = Path(__file__).parents[2] / "tests" / "cases"


def copy_case(name: str, path: Path) -> None:
    path.write_bytes((CASES / name).read_bytes())


GOOD: dict[str, tuple[str, Callable[[Path], object]]] = {
    "CMYK": ("a.jpg", lambda p: Image.fromarray(PIXELS).convert("CMYK").save(p)),
    "palette with alpha": ("a.png", palette_with_alpha),
    "grey with alpha": ("a.png", lambda p: Image.fromarray(PIXELS).convert("LA").save(p)),
    "16 bits": ("a.png", lambda p: Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(p)),
    "1 bit": ("a.png", lambda p: Image.fromarray(PIXELS).convert("1").save(p)),
    "animated GIF": ("a.gif", animated),
    "animated PNG": ("a.png", animated),
    "animated WebP": ("a.webp", animated),
    "turned by EXIF": ("a.jpg", turned),
    "floating point TIFF": ("a.tif", lambda p: Image.fromarray(np.float32(PIXELS[..., 0] / 255)).save(p)),
    "JPEG named .png": ("a.png", lambda p: p.write_bytes(encoded("JPEG"))),
    "upper-case suffix": ("A.JPG", lambda p: p.write_bytes(encoded("JPEG"))),
    "unicode name": ("ünïcødé-図-🙂.png", lambda p: p.write_bytes(encoded("PNG"))),
    "name with spaces and quotes": ("a 'b' \"c\" $d.png", lambda p: p.write_bytes(encoded("PNG"))),
    "name with a line break": ("a\nb.png", lambda p: p.write_bytes(encoded("PNG"))),
    "name that is no UTF-8": (os.fsdecode(b"a\xff\xfe.png"), lambda p: p.write_bytes(encoded("PNG"))),
    "link to a file": ("a.png", lambda p: (p.with_name("x").write_bytes(encoded("PNG")), p.symlink_to("x"))),
    "one pixel": ("a.png", lambda p: Image.new("RGB", (1, 1)).save(p)),
    "AVIF": ("a.avif", lambda p: Image.fromarray(PIXELS).save(p)),
    "JPEG 2000": ("a.jp2", lambda p: Image.fromarray(PIXELS).save(p)),
    "float beyond 1 by a resampler": ("a.tif", lambda p: copy_case("float_overshoot.tif", p)),
    "float in [-1, 1]": ("a.tif", lambda p: copy_case("float_m1_1.tif", p)),
    "8 bits in 32": ("a.tif", lambda p: copy_case("int32_8bit.tif", p)),
    "16-bit grey with alpha": ("a.png", lambda p: copy_case("la16.png", p)),
    "16-bit colour": ("a.png", lambda p: copy_case("rgb16.png", p)),
    "EXIF that no parser expects": ("a.jpg", lambda p: copy_case("exif_garbage.jpg", p)),
    "EXIF text where a number should be": ("a.jpg", lambda p: copy_case("x_ascii_in_short.jpg", p)),
}  # fmt: skip

BAD: dict[str, tuple[str, Callable[[Path], object]]] = {
    "truncated JPEG": ("a.jpg", lambda p: p.write_bytes(encoded("JPEG")[:400])),
    "truncated PNG": ("a.png", lambda p: p.write_bytes(encoded("PNG")[:400])),
    "zero bytes": ("a.png", lambda p: p.write_bytes(b"")),
    "text named .png": ("a.png", lambda p: p.write_text("this is no image")),
    "PostScript named .png": ("a.png", lambda p: p.write_text("%!PS-Adobe-3.0 EPSF-3.0\nshowpage")),
    "decompression bomb": ("a.png", lambda p: Image.new("1", (20_000, 20_000)).save(p)),
    "header that promises 10^9 pixels": ("a.png", lambda p: p.write_bytes(
        encoded("PNG")[:16] + (50_000).to_bytes(4, "big") * 2 + encoded("PNG")[24:])),
    "a line of pixels": ("a.png", lambda p: Image.new("L", (60_000, 1)).save(p)),
    "values that are not finite": ("a.tif", lambda p: Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(p)),
    "dangling link": ("a.png", lambda p: p.symlink_to("nowhere")),
    "link to itself": ("a.png", lambda p: p.symlink_to("a.png")),
    "pipe": ("a.png", os.mkfifo),
    "link to a device": ("a.png", lambda p: p.symlink_to("/dev/zero")),
}  # fmt: skip


def folder_with(path: Path, kind: tuple[str, Callable[[Path], object]], count: int = 8) -> Path:
    fresh(path)
    for i in range(count):
        (path / f"good-{i}.png").write_bytes(encoded("PNG", Image.fromarray(np.roll(PIXELS, i, 0))))
    name, make = kind
    make(path / name)
    return path


def main(lab: Lab) -> None:
    fresh(lab.folder)
    photos = lab.folder / "photos"
    for name, kind in list(GOOD.items())[: lab.number(len(GOOD), 3)]:
        folder_with(photos, kind)
        check = run(["data", "check", str(photos), "--json"], lab.folder)
        bad = [] if check.code == 0 and json.loads(check.output)["num_images"] == 9 else [check.output + check.errors]
        trained = run(train_arguments(tiny(fresh(lab.folder / "run"), data=str(photos), steps=3, num_validation=0,
                                           batch_size=9), lab.folder), lab.folder)  # fmt: skip
        bad += [] if trained.code == 0 else [trained.errors[-800:]]
        lab.row("images", f"used: {name}", 2, bad)
    for name, kind in list(BAD.items())[: lab.number(len(BAD), 3)]:
        folder_with(photos, kind)
        lab.row("images", f"left out and named: {name}", 3, left_out(lab, photos, kind[0]))
    if lab.short:
        return
    unreadable(lab, photos)
    folders(lab, photos)
    archive(lab)
    data_sets(lab)
    removed(lab, photos)


def left_out(lab: Lab, photos: Path, name: str, **options) -> list[str]:
    """What is wrong with how one bad file is treated by the check, by training, and by training with no tolerance."""
    check = run(["data", "check", str(photos), "--json"], lab.folder, **options)
    found = json.loads(check.output) if check.output else {}
    named = [u["name"] for u in found.get("unusable", [])]
    bad = [] if (check.code, found.get("num_images"), named) == (1, 8, [name]) else [check.output + check.errors[-800:]]
    config = tiny(fresh(lab.folder / "run"), data=str(photos), steps=3, num_validation=0)
    trained = run(train_arguments(config, lab.folder), lab.folder, **options)
    if trained.code != 0 or f"left out 1:\n  {name}: " not in trained.errors:
        bad.append(trained.errors[-800:])
    config = tiny(fresh(lab.folder / "run"), data=str(photos), on_bad_image="error", num_validation=0)
    bad += one_line(
        run(train_arguments(config, lab.folder), lab.folder, **options), 2, f"{name} in {photos} cannot be used"
    )
    return bad


def as_nobody() -> None:
    os.setgid(65534)
    os.setuid(65534)


def unreadable(lab: Lab, photos: Path) -> None:
    """No permission, as a user other than root, whom nothing is forbidden."""
    options = {"before": as_nobody} if os.getuid() == 0 else {}
    os.chmod(lab.folder, 0o777)
    (lab.folder / "run").mkdir(exist_ok=True)
    os.chmod(lab.folder / "run", 0o777)

    def forbidden(path: Path) -> None:
        path.write_bytes(encoded("PNG"))
        path.chmod(0)

    folder_with(photos, ("a.png", forbidden))
    check = run(["data", "check", str(photos)], lab.folder, **options)
    bad = [] if check.code == 1 and "a.png: no permission" in check.output else [check.output + check.errors[-800:]]
    lab.row("images", "left out and named: no permission", 1, bad)

    folder_with(photos, ("sub", lambda p: (p.mkdir(), (p / "b.png").write_bytes(encoded("PNG")), p.chmod(0))))
    check = run(["data", "check", str(photos)], lab.folder, **options)
    bad = [] if check.code == 1 and "sub: Permission denied" in check.output else [check.output + check.errors[-800:]]
    config = tiny(lab.folder / "none", data=str(photos))
    refused = run(train_arguments(config, lab.folder), lab.folder, **options)
    bad += one_line(refused, 2, "the folder sub in")
    lab.row("images", "refused and named: a folder that may not be searched", 2, bad)
    (photos / "sub").chmod(0o755)


def folders(lab: Lab, photos: Path) -> None:
    folder_with(photos, ("loop", lambda p: p.symlink_to(p.parent, target_is_directory=True)))
    check = run(["data", "check", str(photos), "--json"], lab.folder)
    found = json.loads(check.output)
    told = [f["name"] for f in found["not_searched"]] == ["loop"]
    lab.row("images", "folders that link in a circle", 1, [] if check.code == 0 and told else [check.output])
    fresh(photos)
    for i in range(100):
        (photos / f"{i}.png").write_bytes(b"" if i < 2 else encoded("PNG"))
    config = tiny(lab.folder / "none", data=str(photos), num_validation=0, steps=2)
    bad = one_line(run(train_arguments(config, lab.folder), lab.folder), 2, "2 of 100 images")
    if (lab.folder / "none").exists():
        bad.append("a folder was left")
    allowed = run([*train_arguments(config, lab.folder), "--max-bad-images", "0.02"], lab.folder)
    bad += [] if allowed.code == 0 else [allowed.errors[-800:]]
    lab.row("images", "more bad files than --max-bad-images", 2, bad)


def archive(lab: Lab) -> None:
    """A zip with a damaged member, and one that unpacks to more than is read."""
    path = lab.folder / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for i in range(4):
            out.writestr(f"{i}.png", encoded("PNG"))
        out.writestr("bad.png", b"no image")
        out.writestr("bomb.png", bytes(600 * 2**20))
    check = run(["data", "check", str(path), "--json"], lab.folder)
    names = [u["name"] for u in json.loads(check.output)["unusable"]]
    lab.row(
        "images",
        "a zip with a damaged member and a bomb",
        1,
        [] if names == ["bad.png", "bomb.png"] else [check.output],
    )


def tree(path: Path, *names: str) -> Path:
    """Makes images of these names below a folder."""
    for i, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(encoded("PNG", Image.fromarray(np.roll(PIXELS, i, 0))))
    return path


def zipped(path: Path, names: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as out:
        for name, content in names.items():
            out.writestr(name, content)
    return path.with_suffix(".zip")


def with_files(path: Path, content: bytes, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def dark_and_light(path: Path) -> Path:
    path.mkdir()
    for factor in (0.003, 1):
        Image.fromarray(np.float32(PIXELS[..., 0] * factor)).save(path / f"{factor}.tif")
    return path


def hub(path: Path, pictures: list[Image.Image | None], labels: list[int] | None = None) -> str:
    import datasets

    table: dict[str, list] = {"picture": pictures}
    kinds = {"picture": datasets.Image()}
    if labels is not None:
        table["kind"], kinds["kind"] = labels, datasets.ClassLabel(names=["a", "b"])
    datasets.Dataset.from_dict(table, features=datasets.Features(kinds)).save_to_disk(path)
    return f"hf:{path}"


CATS_AND_DOGS = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
APPLE = ("._1.png", "__MACOSX/cat/._1.png", "cat/._1.png")
SHADES: list[Image.Image | None] = [Image.new("L", (8, 8), 50 * i) for i in range(4)]
RED = Image.new("RGB", (8, 8), "red")
CLASSES = {"class_names": ["cat", "dog"]}

DATA_SETS: dict[str, tuple[Callable[[Path], object], int, dict]] = {
    "zip with backslashes": (lambda p: CASES / "back.zip", 0, {"num_images": 3, **CLASSES}),
    "zip with absolute names": (lambda p: CASES / "abs.zip", 0, {"num_images": 3, **CLASSES}),
    "zip of a folder in a folder": (
        lambda p: zipped(p, {f"a/b/{n}": encoded("PNG") for n in CATS_AND_DOGS}), 0, {"num_images": 4, **CLASSES}),
    "folder in a folder": (lambda p: tree(p / "a" / "b", *CATS_AND_DOGS).parents[1], 0, {"num_images": 4, **CLASSES}),
    "train/, val/ and test/": (
        lambda p: tree(p, *(f"{s}/{n}" for s in ("train", "val", "test") for n in CATS_AND_DOGS)), 0,
        {"num_images": 4, **CLASSES}),
    "an image beside the classes": (
        lambda p: tree(p, *CATS_AND_DOGS, "stray.png"), 0, {"num_images": 5, "class_names": None}),
    "AppleDouble files in a folder": (
        lambda p: with_files(tree(p, *CATS_AND_DOGS), b"Mac OS X", *APPLE), 0, {"num_images": 4, **CLASSES}),
    "AppleDouble files in a zip": (
        lambda p: zipped(p, {n: encoded("PNG") for n in CATS_AND_DOGS} | dict.fromkeys(APPLE, b"x")), 0,
        {"num_images": 4, **CLASSES}),
    "kinds that are not read": (
        lambda p: with_files(tree(p, *CATS_AND_DOGS), b"x", "1.heic", "2.HEIC", "3.dng"), 0,
        {"num_images": 4, "left_aside": {".heic": 2, ".dng": 1}}),
    "float images of which one is dark": (dark_and_light, 0, {"num_images": 2}),
    "float images of an unusual range": (
        lambda p: with_files(p, (CASES / "float_hdr4.tif").read_bytes(), "a.tif", "b.tif"), 1, {"num_images": 2}),
    "hub set whose first image is grey": (lambda p: hub(p, [*SHADES, RED]), 0, {"num_images": 5, "channels": 3}),
    "hub set with a missing image": (lambda p: hub(p, [SHADES[0], None, *SHADES[1:]]), 1, {"num_images": 4}),
    "hub set without labels": (
        lambda p: hub(p, SHADES, [-1, -1, -1, -1]), 0, {"num_images": 4, "class_names": None}),
}  # fmt: skip
"""Data sets as people and programs make them: how, the exit code of `data check`, and what it must find."""


def data_sets(lab: Lab) -> None:
    """Whole data sets that are not what one hopes for; then archives read by several workers."""
    for name, (make, code, expected) in DATA_SETS.items():
        source = str(make(fresh(lab.folder / "sets") / "set"))
        check = run(["data", "check", source, "--json"], lab.folder)
        found = json.loads(check.output) if check.output else {}
        bad = [] if check.code == code else [f"exit code {check.code}: {check.output + check.errors[-800:]}"]
        bad += [f"{key} is {found.get(key)!r}" for key, value in expected.items() if found.get(key) != value]
        config = tiny(fresh(lab.folder / "run"), data=source, steps=2, batch_size=2, num_validation=0)
        trained = run(train_arguments(config, lab.folder), lab.folder)
        if "unusual range" in name:
            bad += one_line(trained, 2, "--value-range")
        else:
            bad += [] if trained.code == 0 else [trained.errors[-800:]]
        lab.row("images", f"used: {name}", 2, bad)
    source = hub(fresh(lab.folder / "sets") / "set", SHADES, [0, -1, 1, 0])
    refused = run(["data", "check", source], lab.folder)
    lab.row("images", "refused and named: hub set with a missing label", 1, one_line(refused, 2, "1 of 4 labels"))

    grains = {f"{i}.png": encoded("PNG", Image.fromarray(np.roll(PIXELS, i))) for i in range(100)}
    output = fresh(lab.folder / "run")
    config = tiny(output, data=str(zipped(lab.folder / "many", grains)), steps=40, num_validation=0, num_workers=4)
    trained = run(train_arguments(config, lab.folder), lab.folder)
    bad = [] if trained.code == 0 else [trained.errors[-800:]]
    bad += [str(r) for r in map(json.loads, (output / "metrics.jsonl").open()) if "unreadable" in r]
    lab.row("images", "an archive read by four forked workers", 1, bad)


def removed(lab: Lab, photos: Path) -> None:
    """A file removed while the run is killed and resumed: others keep their places, and the run ends."""
    folder_with(photos, ("a.png", lambda p: p.write_bytes(encoded("PNG"))))
    output = fresh(lab.folder / "run")
    config = tiny(output, data=str(photos), steps=6, num_validation=0, batch_size=3, max_bad_images=0.5)
    assert run(train_arguments(config, lab.folder), lab.folder).code == 0
    (photos / "a.png").unlink()
    ends = []
    for name in ("one", "two"):
        twin = lab.folder / f"removed-{name}"
        import shutil

        shutil.copytree(output, twin)
        child = run(resume_arguments(twin, "--steps", "12"), lab.folder)
        ends.append((child.code, [r["loss"] for r in map(json.loads, (twin / "metrics.jsonl").open()) if "loss" in r]))
    bad = [] if ends[0] == ends[1] and ends[0][0] == 0 and len(ends[0][1]) == 12 else [str(ends)]
    lab.row(
        "images", "a file removed between two parts of a run", 2, bad, "replaced by another, the same one each time"
    )
