"""Restores many image files, one after another, and reports where each result is, what failed, and why."""

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path, PurePath
from typing import Protocol, TypeVar

from tqdm import tqdm

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.files import check_outputs
from continuous_unet.base.results import CallResult, Json
from continuous_unet.base.signals import Stopped, StopRequest, stop_on_signals
from continuous_unet.data.options import parse_value_range
from continuous_unet.images.decode import Unreadable
from continuous_unet.images.names import SUFFIXES as READABLE
from continuous_unet.images.names import describe_left_out, is_hidden
from continuous_unet.images.photographs import SUFFIXES, Photograph, check_fits, read_photograph, write_photograph
from continuous_unet.tasks.options import FileOptions

Chosen = TypeVar("Chosen", bound=FileOptions, contravariant=True)


class Restore(Protocol):
    """Makes a better photograph; returns it, with its notes, and facts about how it was made."""

    def __call__(self, photograph: Photograph, before_tile: Callable[[], None]) -> tuple[Photograph, Json]:
        """Calls `before_tile` before each piece of work; what that raises ends it."""


@dataclass(frozen=True)
class Work:
    """What a verb does with its files."""

    restore: Restore
    facts: Json
    """What the result says about all files, such as the name of the model."""
    scale: int = 1
    """Number of times that the results are larger than the inputs, in width and in height."""


class FileCall(Protocol[Chosen]):
    """The library call behind a verb whose input is image files."""

    def __call__(self, options: Chosen, *, stop: StopRequest | None = None) -> "FilesResult":
        """Restores the files; `stop` is asked before each piece of work. Signals stop the work if it is None."""


@dataclass
class FilesResult(CallResult):
    """The result of a verb for image files."""

    output: str
    facts: Json = field(default_factory=dict)
    """What holds for all files, such as the model."""
    files: list[Json] = field(default_factory=list)
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

    def fail(self, source: str | Path, reason: str) -> None:
        """Records why a file failed, and prints it above the progress bar."""
        reason = " ".join(reason.split())
        self.failed.append({"input": str(source), "reason": reason})
        tqdm.write(f"{source}: {reason}", file=sys.stderr)

    @property
    def exit_code(self) -> int:
        return super().exit_code or (2 if self.failed else 0)

    def to_dict(self) -> Json:
        rate = self.megapixels / self.seconds if self.seconds else 0.0
        numbers = {"megapixels": self.megapixels, "seconds": self.seconds, "megapixels_per_second": rate}
        lists = {"files": self.files, "failed": self.failed, "skipped": self.skipped, "stopped_by": self.stopped_by}
        return {**self.facts, **lists, **{name: round(number, 3) for name, number in numbers.items()}}

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


def plan_files(options: FileOptions, result: FilesResult) -> list[tuple[Path, Path]]:
    """Returns input and output of every file that has to be restored.

    Hidden files, and earlier results below a searched folder, are no inputs. In an output folder, results get the names
    of the inputs, and their folders below those that were given.

    Args:
        options: inputs, output, and what to do about results that exist.
        result: receives files that cannot be used, that are skipped, and that are left out.

    Raises:
        InputError: for a folder without images, an output that exists, or a place that cannot be written.
    """
    out, found, endings = Path(options.output), dict[Path, PurePath](), Counter[str]()
    for path in map(Path, options.inputs):
        if not path.is_dir():
            found.setdefault(path, PurePath(path.name))
            continue
        walk = os.walk(path, onerror=lambda error: result.fail(error.filename, first_line(error)))
        files = sorted(Path(folder, file) for folder, _, names in walk for file in names)
        files = [p for p in files if p.is_file() and not is_hidden(p.relative_to(path))]
        if out.absolute() != path.absolute():  # results in a folder below
            files = [p for p in files if out.absolute() not in p.absolute().parents]
        endings.update(p.suffix.lower() for p in files)
        images = {p: p.relative_to(path) for p in files if p.suffix.lower() in READABLE}
        if not images and not result.failed:
            raise InputError(f"the folder {path} holds no image")
        found = {**found, **{p: relative for p, relative in images.items() if p not in found}}
    result.left_out = describe_left_out(endings)
    writable = {p: name if name.suffix.lower() in SUFFIXES else name.with_suffix(".png") for p, name in found.items()}
    times = Counter(writable.values())
    names = [name for name, count in times.items() if count == 1]
    allowed = options.overwrite or options.skip_existing
    instead = "choose another --output, or pass over it with --skip-existing"
    targets = check_outputs(options.output, names, SUFFIXES, overwrite=allowed, instead=instead)
    if targets == [out] and (len(found) > 1 or Path(options.inputs[0]).is_dir()):
        raise InputError(f"--output {out} is one file and there are {len(found)} inputs; name a folder")
    places, jobs = dict(zip(names, targets, strict=False)), []
    for source, name in writable.items():
        if times[name] > 1:
            result.fail(source, f"another input would become {out / name} too; rename one, or run them one by one")
        elif options.skip_existing and places[name].exists():
            result.skipped.append(str(source))
        else:
            jobs.append((source, places[name]))
    result.number = len(jobs) + len(result.failed) + len(result.skipped)
    return jobs


def file_call(prepare: Callable[[Chosen], Work]) -> FileCall[Chosen]:
    """Makes the library call of a verb: it reads, restores and writes file after file.

    Whatever one file raises fails that file alone. When the call is stopped, the files that exist are whole.

    Args:
        prepare: loads the model that the options name and says what to do with each photograph; what it raises ends
            the call before anything is written.
    """

    @wraps(prepare)
    def call(options: Chosen, *, stop: StopRequest | None = None) -> FilesResult:
        options.validate()
        result = FilesResult(options.output)
        jobs, work = plan_files(options, result), prepare(options)
        result.facts, started = work.facts, time.perf_counter()
        with stop_on_signals() if stop is None else contextlib.nullcontext(stop) as request:
            for source, target in tqdm(jobs, "files", unit="file", disable=len(jobs) < 2):
                begun = time.perf_counter()
                try:
                    request.check()
                    photograph = read_photograph(source, options.max_pixels, parse_value_range(options.value_range))
                    check_fits(photograph, target, work.scale)
                    if photograph.frames > 1 and target.exists() and target.samefile(source):
                        problem = f"it has {photograph.frames} frames, and only the first would be left"
                        raise InputError(f"{problem}; name another --output")
                    restored, facts = work.restore(photograph, request.check)
                    notes = [*restored.notes, *write_photograph(restored, target)]
                except Stopped as stopped:
                    result.stopped_by = stopped.signal
                    break
                except Exception as error:  # one bad file must not keep the others
                    known = isinstance(error, (Unreadable, InputError))
                    result.fail(source, str(error) if known else f"{type(error).__name__}: {first_line(error)}")
                    continue
                height, width = restored.pixels.shape[:2]
                seconds = round(time.perf_counter() - begun, 3)
                entry = {"input": str(source), "output": str(target), "width": width, "height": height}
                result.files.append({**entry, "seconds": seconds, "notes": notes, **facts})
                result.megapixels += photograph.megapixels
        result.seconds = time.perf_counter() - started
        return result

    return call
