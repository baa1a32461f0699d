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
