"""Many image files, one after another: where each result goes, what failed, and why."""

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Protocol

from tqdm import tqdm

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.results import CallResult
from continuous_unet.base.signals import Stopped, StopRequest, stop_on_signals
from continuous_unet.data.options import parse_value_range
from continuous_unet.images.decode import Unreadable
from continuous_unet.images.names import SUFFIXES as READABLE
from continuous_unet.images.names import describe_left_out, is_hidden
from continuous_unet.images.photographs import SUFFIXES, Photograph, check_fits, read_photograph, write_photograph
from continuous_unet.tasks.options import FileOptions

Job = tuple[Path, Path]
"""An input and its output."""


class Restore(Protocol):
    """Makes a better photograph; returns it, with its notes, and facts about how it was made."""

    def __call__(self, photograph: Photograph, before_tile: Callable[[], None]) -> tuple[Photograph, dict[str, Any]]:
        """Calls `before_tile` before each piece of work; what that raises ends it."""


@dataclass
class FilesResult(CallResult):
    """What became of the files."""

    output: str
    facts: dict[str, Any] = field(default_factory=dict)
    """What holds for all files, such as the model."""
    files: list[dict[str, Any]] = field(default_factory=list)
    """Those done: `input`, `output`, `width` and `height` of the result, `seconds`, `notes`, and facts."""
    failed: list[dict[str, str]] = field(default_factory=list)
    """Those that failed: `input` and `reason`."""
    skipped: list[str] = field(default_factory=list)
    """Inputs whose results existed already."""
    left_out: str = ""
    """Images of kinds that are not read, by kind."""
    number: int = 0
    """Number of files, done or not."""
    megapixels: float = 0.0
    """Size of the inputs that were done."""
    seconds: float = 0.0
    stopped_by: int | None = None
    """The signal that ended the work, if one did."""

    @property
    def exit_code(self) -> int:
        return super().exit_code or (2 if self.failed else 0)

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.facts,
            "files": self.files,
            "failed": self.failed,
            "skipped": self.skipped,
            "megapixels": round(self.megapixels, 3),
            "seconds": round(self.seconds, 3),
            "stopped_by": self.stopped_by,
            "megapixels_per_second": round(self.megapixels / self.seconds if self.seconds else 0.0, 3),
        }

    def to_text(self) -> str:
        where = self.files[0]["output"] if self.number == 1 and self.files else self.output
        others = f", {len(self.failed)} failed" if self.failed else ""
        others += f", {len(self.skipped)} existed already" if self.skipped else ""
        return f"{len(self.files)} of {self.number} images in {self.seconds:.1f} s{others}: {where}"

    def notes(self) -> list[str]:
        notes = [f"{entry['input']}: {note}" for entry in self.files for note in entry["notes"]]
        if self.left_out:
            notes.append(f"left out, because these kinds are not read: {self.left_out}")
        if self.stopped_by is not None:
            notes.append(f"stopped; {len(self.files)} of {self.number} files are done")
        return notes


@dataclass
class Plan:
    """Which files are read and written."""

    jobs: list[Job]
    failed: list[tuple[Path, str]] = field(default_factory=list)
    """Inputs that cannot be used, and why."""
    skipped: list[Path] = field(default_factory=list)
    left_out: str = ""


def plan_files(inputs: Sequence[str], output: str, overwrite: bool = False, skip_existing: bool = False) -> Plan:
    """Decides input and output of every file.

    Args:
        inputs: files, and folders that are searched. Hidden files, and results of earlier work below a searched folder,
            are passed over.
        output: a file, if there is one input and it is named like an image; otherwise, or if it ends with a slash, a
            folder, which gets files of the inputs' names (and their folders below those that were given).
        overwrite: allow outputs that exist.
        skip_existing: leave out inputs whose output exists.

    Raises:
        InputError: for no file, an output that exists, or a place that cannot be written.
    """
    out = Path(output)
    found: dict[Path, PurePath] = {}
    failed: list[tuple[Path, str]] = []
    unread: Counter[str] = Counter()
    for name in inputs:
        path = Path(name)
        if not path.is_dir():
            found.setdefault(path, PurePath(path.name))
            continue
        walk = os.walk(path, onerror=lambda error: failed.append((Path(error.filename), first_line(error))))
        files = sorted(Path(folder, file) for folder, _, names in walk for file in names)
        files = [p for p in files if p.is_file() and not is_hidden(p.relative_to(path))]
        if out.absolute() != path.absolute():  # results in a folder below
            files = [p for p in files if out.absolute() not in p.absolute().parents]
        images = [p for p in files if p.suffix.lower() in READABLE]
        unread.update(p.suffix.lower() for p in files)
        if not images and not failed:
            raise InputError(f"the folder {path} holds no image")
        for p in images:
            found.setdefault(p, p.relative_to(path))
    is_folder = out.is_dir() or output.endswith(("/", os.sep))
    if is_folder or not out.suffix:
        if out.exists() and not out.is_dir():
            raise InputError(f"--output {out} is a file; name an image file or a folder")
        jobs = [(path, out / _writable(relative)) for path, relative in found.items()]
    elif out.suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise InputError(f"--output {out}: expected a folder, which may end with /, or a name that ends in {known}")
    elif len(found) > 1 or Path(inputs[0]).is_dir():
        raise InputError(f"--output {out} is one file and there are {len(found)} inputs; name a folder")
    else:
        jobs = [(path, out) for path in found]
    times = Counter(target for _, target in jobs)
    plan = Plan([], failed, left_out=describe_left_out(unread))
    for source, target in jobs:
        if times[target] > 1:
            failed.append((source, f"another input would become {target} too; rename one, or run them one by one"))
        elif not target.exists() or overwrite:
            plan.jobs.append((source, target))
        elif skip_existing:
            plan.skipped.append(source)
        else:
            raise InputError(
                f"{target} exists already; choose another --output, or allow it with --overwrite, or pass over it with "
                "--skip-existing"
            )
    for place in {target.parent for _, target in plan.jobs[:1]}:
        there = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise InputError(f"cannot write into {place}: {there} is no folder that may be written to")
    return plan


def _writable(name: PurePath) -> PurePath:
    return name if name.suffix.lower() in SUFFIXES else name.with_suffix(".png")


def restore_files(
    plan: Plan,
    restore: Restore,
    options: FileOptions,
    *,
    stop: StopRequest | None = None,
    scale: int = 1,
    facts: dict[str, Any] | None = None,
) -> FilesResult:
    """Reads, restores and writes file after file. Whatever one file raises fails that file alone.

    Args:
        plan: what `plan_files` gives.
        restore: the work.
        options: of the verb.
        stop: asked before each piece of work; files that exist are whole then. Signals stop it if None.
        scale: how many times larger the results are.
        facts: what the result says about all files.
    """
    total = len(plan.jobs) + len(plan.failed) + len(plan.skipped)
    skipped = [str(path) for path in plan.skipped]
    result = FilesResult(options.output, facts or {}, skipped=skipped, left_out=plan.left_out, number=total)

    def fail(source: Path, reason: str) -> None:
        reason = " ".join(reason.split())
        result.failed.append({"input": str(source), "reason": reason})
        tqdm.write(f"{source}: {reason}", file=sys.stderr)

    for source, reason in plan.failed:
        fail(source, reason)
    started = time.perf_counter()
    with stop_on_signals() if stop is None else contextlib.nullcontext(stop) as request:
        for source, target in tqdm(plan.jobs, "files", unit="file", disable=len(plan.jobs) < 2):
            begun = time.perf_counter()
            try:
                request.check()
                photograph = read_photograph(source, options.max_pixels, parse_value_range(options.value_range))
                check_fits(photograph, target, scale)
                _check_frames(photograph, source, target)
                restored, facts_of_one = restore(photograph, request.check)
                notes = [*restored.notes, *write_photograph(restored, target)]
            except Stopped as stopped:
                result.stopped_by = stopped.signal
                break
            except Exception as error:  # one bad file must not keep the others
                known = isinstance(error, (Unreadable, InputError))
                fail(source, str(error) if known else f"{type(error).__name__}: {first_line(error)}")
                continue
            height, width = restored.pixels.shape[:2]
            seconds = round(time.perf_counter() - begun, 3)
            entry = {"input": str(source), "output": str(target), "width": width, "height": height}
            result.files.append({**entry, "seconds": seconds, "notes": notes, **facts_of_one})
            result.megapixels += photograph.megapixels
    result.seconds = time.perf_counter() - started
    return result


def _check_frames(photograph: Photograph, source: Path, target: Path) -> None:
    if photograph.frames > 1 and target.exists() and target.samefile(source):
        raise InputError(f"it has {photograph.frames} frames, and only the first would be left; name another --output")
