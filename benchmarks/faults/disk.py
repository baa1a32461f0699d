"""Makes the disk full, read-only, out of files or over its quota, at every write of a save."""

import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from lab import (
    Lab,
    Row,
    checkpoint_paths,
    differences,
    fresh,
    one_line,
    remount,
    resume_arguments,
    run,
    tiny,
    tmpfs,
    train_arguments,
)

from continuous_unet.training.checkpoints import find_damage

PAGE = 4096
SETTINGS = {"steps": 12, "checkpoint_every": 6, "sample_every": 6}
NEEDS = "not done: file systems may not be mounted here (it needs root)"


def refused(child, output: Path, good: str, message: str) -> list[str]:
    """Lists what is wrong after a save that failed."""
    problems = one_line(child, 2, message)
    if not (output / "checkpoints" / good).is_dir() or any(find_damage(p) for p in checkpoint_paths(output)):
        problems.append(f"the last good checkpoint {good} is gone, or one is there that is not whole")
    if list(output.rglob("*.tmp*")):
        problems.append(f"left over: {list(output.rglob('*.tmp*'))}")
    if not (output / "model" / "model_index.json").is_file() and not (output / "model.old").exists():
        problems.append("the last good model is gone")
    return problems


def sweep(
    lab: Lab, case: str, output: Path, limit: Callable[[int], None], message: str, first: int, stride: int
) -> None:
    """Resumes with a little more room each time, until the save succeeds."""
    bad: list[str] = []
    targets: dict[str, int] = {}
    trials, room = 0, first
    while True:
        limit(room)
        child = run(resume_arguments(output), lab.folder)
        if child.code == 0:
            break
        trials += 1
        bad += refused(child, output, "step-00000006", message)
        found = re.search(r"error: (\S+) cannot be written", child.errors)
        name = re.sub(r"step-\d+", "step", Path(found[1]).name) if found else "?"
        targets[name] = targets.get(name, 0) + 1
        room += stride
        if trials > 400 or len(bad) > 5:
            bad.append("the save never went through")
            break
    bad += differences(output, lab.folder / "reference")
    places = ", ".join(f"{name} {count}" for name, count in sorted(targets.items(), key=lambda t: -t[1]))
    lab.row(
        "disk", case, trials, bad, f"failed while writing {places}; then room was made, and the run went on exactly"
    )


def used_pages(where: Path) -> int:
    found = os.statvfs(where)
    return (found.f_blocks - found.f_bfree) * found.f_frsize // PAGE


def used_inodes(where: Path) -> int:
    found = os.statvfs(where)
    return found.f_files - found.f_ffree


def begin(output: Path, lab: Lab) -> None:
    """Makes a run with one checkpoint, of step 6; the reference has two."""
    config = tiny(output, **SETTINGS)
    config.steps = 6
    config.optimizer.lr_schedule = "constant"  # the same for 6 and for 12 steps
    child = run(train_arguments(config, lab.folder), lab.folder)
    assert child.code == 0, child.errors
    (output / "report.md").unlink()
    (output / "loss.png").unlink()
    config.steps = 12
    config.save(output / "config.yaml")


def main(lab: Lab) -> None:
    fresh(lab.folder)
    reference = lab.folder / "reference"
    config = tiny(reference, **SETTINGS)
    config.optimizer.lr_schedule = "constant"
    assert run(train_arguments(config, lab.folder), lab.folder).code == 0

    with tmpfs(lab.folder / "full", "size=64m") as disk:
        if disk is None:
            lab.rows.append(Row("disk", "real file systems, full and read-only", 0, 0, NEEDS))
        else:
            begin(disk / "run", lab)
            pages = used_pages(disk)
            # start without any room and add a page at a time, so that every write of the save is cut off somewhere
            limit = lambda room: remount(disk, f"size={(pages + room) * PAGE}")  # noqa: E731
            sweep(lab, "disk full, page by page, at every write of a save", disk / "run", limit, "No space left", 0,
                  lab.number(1, 24))  # fmt: skip
    with tmpfs(lab.folder / "files", "size=64m") as disk:
        if disk is not None:
            begin(disk / "run", lab)
            inodes = used_inodes(disk)
            limit = lambda room: remount(disk, f"nr_inodes={inodes + room}")  # noqa: E731
            sweep(
                lab,
                "no more files allowed, at every new file",
                disk / "run",
                limit,
                "No space left",
                0,
                lab.number(1, 6),
            )
    with tmpfs(lab.folder / "read-only", "size=64m") as disk:
        if disk is not None:
            begin(disk / "run", lab)
            remount(disk, "ro")
            child = run(resume_arguments(disk / "run"), lab.folder)
            bad = refused(child, disk / "run", "step-00000006", "Read-only file system")
            remount(disk, "rw")
            resumed = run(resume_arguments(disk / "run"), lab.folder)
            bad += differences(disk / "run", reference) if resumed.code == 0 else [resumed.errors]
            lab.row("disk", "file system turned read-only", 1, bad)
    with tmpfs(lab.folder / "quota", "size=64m,usrquota,usrquota_block_hardlimit=64k") as disk:
        if disk is None:
            lab.rows.append(Row("disk", "quota of a user", 0, 0, "not done: this kernel has no quota on tmpfs"))
        else:
            quota(lab, disk)
    file_sizes(lab)


def quota(lab: Lab, disk: Path) -> None:
    """Runs as a user with a quota of 64 KiB, which is too little for the first checkpoint."""
    os.chmod(disk, 0o777)
    folder = lab.folder / "as-nobody"
    fresh(folder)
    os.chmod(folder, 0o777)

    def as_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)

    child = run(train_arguments(tiny(disk / "run"), folder), folder, before=as_nobody)
    bad = one_line(child, 2, "quota")
    if checkpoint_paths(disk / "run"):
        bad.append("a checkpoint that cannot be whole")
    lab.row("disk", "quota of a user", 1, bad)


def file_sizes(lab: Lab) -> None:
    """Limits the size of files (`ulimit -f`), to each size at which one more file of a save still fits."""
    output = lab.folder / "sizes"
    begin(output, lab)
    kept = lab.folder / "kept"
    shutil.copytree(output, kept)
    sizes = sorted({f.stat().st_size for f in output.rglob("*") if f.is_file() and f.stat().st_size > 2000})
    bad, trials = [], 0
    for size in sizes[:: lab.number(1, 4)]:
        limited = lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1))  # noqa: E731
        child = run(resume_arguments(output), lab.folder, before=limited)
        trials += 1
        bad += refused(child, output, "step-00000006", "cannot be written")
    assert run(resume_arguments(output), lab.folder).code == 0
    bad += differences(output, lab.folder / "reference")
    lab.row("disk", "largest file size (ulimit -f)", trials, bad)
