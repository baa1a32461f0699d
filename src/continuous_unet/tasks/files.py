"""Many image files, one after another: where each result goes, what failed, and why."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from tqdm import tqdm

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import explain_write_errors
from continuous_unet.base.signals import Stopped, StopRequest
from continuous_unet.data.sources import SUFFIXES as READABLE
from continuous_unet.images.decode import Unreadable
from continuous_unet.images.photographs import SUFFIXES, Photograph, read_photograph, write_photograph


@dataclass
class BatchResult:
    """What became of the files."""

    files: list[dict[str, Any]] = field(default_factory=list)
    """Of those done: `input`, `output`, `width` and `height` of the result, `seconds`, `notes`, and what the work
    tells."""
    failed: list[dict[str, str]] = field(default_factory=list)
    """Of the others: `input` and `reason`."""
    megapixels: float = 0.0
    """Of the inputs that were done."""
    seconds: float = 0.0
    stopped_by: int | None = None
    """The signal that ended the work, if one did."""


def plan_files(inputs: Sequence[str], output: str, overwrite: bool = False) -> list[tuple[Path, Path]]:
    """Input and output of every file.

    Args:
        inputs: files, and folders that are searched through.
        output: a file, if there is one input and it is named like an image; a folder otherwise, which gets files of the
            inputs' names (and their folders below those that were given).
        overwrite: allow outputs that are there.

    Raises:
        InputError: for no file, two inputs with one output, an output that is there, or a place that cannot be written.
    """
    if not output:
        raise InputError("no output was named; give a file, or a folder for several, with --output")
    found: list[tuple[Path, PurePath]] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            names = sorted(p for p in path.rglob("*") if p.suffix.lower() in READABLE and p.is_file())
            if not names:
                raise InputError(f"the folder {path} holds no image")
            found += [(p, p.relative_to(path)) for p in names]
        else:
            found.append((path, PurePath(path.name)))
    out = Path(output)
    if out.suffix and not out.is_dir() and out.suffix.lower() not in SUFFIXES:
        raise InputError(f"--output {out}: expected a folder, or a name that ends in {', '.join(SUFFIXES)}")
    if out.suffix.lower() in SUFFIXES and not out.is_dir():
        if len(found) > 1 or Path(inputs[0]).is_dir():
            raise InputError(f"--output {out} is one file and there are {len(found)} inputs; name a folder")
        jobs = [(found[0][0], out)]
    else:
        if out.exists() and not out.is_dir():
            raise InputError(f"--output {out} is a file; name an image file or a folder")
        jobs = [(path, out / _writable(relative)) for path, relative in found]
    taken: dict[Path, Path] = {}
    for source, target in jobs:
        if target in taken:
            raise InputError(f"{taken[target]} and {source} would both become {target}; run them one by one")
        taken[target] = source
        if not overwrite and target.exists():
            raise InputError(f"{target} exists already; choose another --output, or allow it with --overwrite")
    place = jobs[0][1].parent.absolute()
    there = next(p for p in (place, *place.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"cannot write into {jobs[0][1].parent}: {there} is no folder that may be written to")
    return jobs


def _writable(name: PurePath) -> PurePath:
    return name if name.suffix.lower() in SUFFIXES else name.with_suffix(".png")


def restore_files(
    jobs: list[tuple[Path, Path]],
    restore: Callable[[Photograph, Callable[[], None]], tuple[Photograph, dict[str, Any]]],
    *,
    stop: StopRequest,
    description: str,
) -> BatchResult:
    """Read, restore and write file after file. A bad one is told in a line, counted, and does not keep the others.

    Args:
        jobs: of `plan_files`.
        restore: a photograph, and what to call before each piece of work, to the result and what to tell of it.
        stop: asked before each piece of work; files that are there are whole then.
        description: on the progress bar, which several files have.
    """
    result = BatchResult()
    started = time.perf_counter()

    def check() -> None:
        if stop.signal is not None:
            raise Stopped(stop.signal)

    for source, target in tqdm(jobs, description, unit="file", disable=len(jobs) < 2):
        begun = time.perf_counter()
        try:
            check()
            if not source.exists():
                raise InputError("there is no such file")
            photograph = read_photograph(source)
            restored, told = restore(photograph, check)
            with explain_write_errors(target.parent):
                target.parent.mkdir(parents=True, exist_ok=True)
            write_photograph(restored, target)
        except Stopped as stopped:
            result.stopped_by = stopped.signal
            break
        except (Unreadable, InputError) as error:
            reason = " ".join(str(error).split())
            result.failed.append({"input": str(source), "reason": reason})
            tqdm.write(f"{source}: {reason}", file=sys.stderr)
            continue
        height, width = restored.pixels.shape[:2]
        entry = {"input": str(source), "output": str(target), "width": width, "height": height}
        result.files.append(
            {**entry, "seconds": round(time.perf_counter() - begun, 3), "notes": restored.notes, **told}
        )
        result.megapixels += photograph.megapixels
    result.seconds = time.perf_counter() - started
    return result
