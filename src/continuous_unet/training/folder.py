"""The run folder: its files, its lock, and its records.

config.yaml      the resolved configuration          metrics.jsonl    a record per line
run.json         versions, command, data             samples/         pictures of the progress
images.json      names of the images trained on      (if they are files)
checkpoints/     to resume from                      model/           to use: a diffusers pipeline, averaged weights
loss.png, report.md   at the end                     teacher/         what a student learns from
lock                  held by the process that trains
"""

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.files import explain_write_errors, replace_text, sync
from continuous_unet.base.options import read_layer
from continuous_unet.base.results import Json
from continuous_unet.data import TrainingData
from continuous_unet.training.config import TrainConfig, recorded

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PACKAGES = ("continuous-unet", "torch", "diffusers", "accelerate", "numpy", "pillow")
"""Packages whose versions are recorded."""


class RunFolder:
    """The paths and files of one run. As a context manager, it releases the lock of the run at the end."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.facts = self.path / "run.json"
        self.images = self.path / "images.json"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.model = self.path / "model"
        self.teacher = self.path / "teacher"
        self.metrics = self.path / "metrics.jsonl"
        self.report = self.path / "report.md"
        self.lock = self.path / "lock"
        self._held: TextIO | None = None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        """Releases the lock, so that another process may train the run."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def start(self, config: TrainConfig, data: TrainingData, num_parameters: int) -> None:
        """Claims the folder for a new run.

        Raises:
            InputError: for a folder that holds something else, cannot be written, or is being trained in.
        """
        self._check_empty()
        self._take_lock()
        self._check_empty()  # another process may have held the lock in between
        self._write(config, data, num_parameters)

    def resume(self, config: TrainConfig, data: TrainingData, num_parameters: int) -> None:
        """Claims the folder for a run that continues in it.

        Raises:
            InputError: if there is no run, if it is being trained, or if its configuration or data has changed.
        """
        self.check_run()
        self._take_lock()
        before = recorded(read_layer(TrainConfig, self.config))
        if changed := before.changes(config):
            raise InputError(
                f"the run {self.path} was started with other settings ({'; '.join(changed)}); resume with the old "
                "ones (leave them out), or start a new run in another --output"
            )
        moved = before.data.source != config.data.source
        if changed := data.report.differences(self._recorded_data(), moved):
            raise InputError(
                f"the data of the run {self.path} has changed ({'; '.join(changed)}); restore it as it was, give its "
                "new place with --data, or start a new run in another --output"
            )
        for stale in (*self.path.glob(".*.tmp"), *self.samples.glob(".*.tmp")):  # a kill left them half written
            with contextlib.suppress(OSError):
                stale.unlink()
        self._write(config, data, num_parameters)
        if not self.model.exists() and self.model.with_name("model.old").exists():
            os.replace(self.model.with_name("model.old"), self.model)  # a crash came between two renames

    def check_run(self) -> None:
        """Checks that the folder holds a run.

        Raises:
            InputError: if it does not.
        """
        if not self.config.is_file():
            raise InputError(f"{self.path} holds no run to resume; start one without --resume")

    def _check_empty(self) -> None:
        if self.config.is_file():
            raise InputError(f"{self.path} already holds a run; continue it with --resume, or choose another --output")
        if self.path.exists() and (not self.path.is_dir() or any(p != self.lock for p in self.path.iterdir())):
            raise InputError(f"{self.path} is not an empty folder; choose another --output")

    def _take_lock(self) -> None:
        """Locks the run for this process until `__exit__` or the end of the process; a kill releases the lock too.

        Raises:
            InputError: if another process holds the lock.
        """
        with explain_write_errors(self.lock):
            self.path.mkdir(parents=True, exist_ok=True)
            file = self.lock.open("a+", encoding="utf-8")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise InputError(
                f"the run {self.path} is being trained by {holder}; wait until that ends, or stop it"
            ) from error
        except OSError:
            pass  # a file system without locks
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        self._held = file
        if hasattr(os, "register_at_fork"):  # a data worker must not hold the lock of a killed run
            os.register_at_fork(after_in_child=file.close)

    def _write(self, config: TrainConfig, data: TrainingData, num_parameters: int) -> None:
        with explain_write_errors(self.path):
            # Before the configuration, which makes the folder a run that can go on.
            if data.file_names is not None and not self.images.is_file():
                replace_text(self.images, json.dumps(data.file_names))
            config.save(self.config)
            self.samples.mkdir(exist_ok=True)
            if not self.facts.is_file():  # also where a crash came before it was written
                facts = {"data": data.report.to_dict(), "num_parameters": num_parameters, "resume": data.resume_promise}
                replace_text(self.facts, json.dumps({**_environment(), **facts}, indent=1))

    def _recorded_data(self) -> Json:
        """Returns the description of the data that the run was started with; it is empty if `run.json` is missing."""
        facts = _read(self.facts, "resume without a check that the data is the same")
        return {} if facts is None else facts["data"]

    def recorded_names(self) -> Json:
        """Returns the names of the images and of the classes that the run was started with, for `open_dataset`.

        Raises:
            InputError: for a damaged file.
        """
        names = _read(self.images, "resume with the images that are there now")
        if names is None:
            return {}
        return {"names": names, "class_names": self._recorded_data().get("class_names") or []}

    def picture(self, step: int) -> Path:
        """Returns the path of the picture that is made at a step."""
        return self.samples / f"step-{step:08d}.png"

    def records(self) -> Iterator[Json]:
        """Yields the records so far. A last line that a crash cut off, and damaged lines, are left out."""
        text = self.metrics.read_text(encoding="utf-8", errors="replace") if self.metrics.exists() else ""
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("step"), int):
                    yield record

    def last(self, name: str) -> float | None:
        """Returns a value of the newest record that has it, or None."""
        values = [record[name] for record in self.records() if record.get(name) is not None]
        return values[-1] if values else None

    def sync_records(self) -> None:
        """Waits until all records are on the disk."""
        if self.metrics.exists():
            with explain_write_errors(self.metrics):
                sync(self.metrics)

    def cut_records(self, step: int) -> None:
        """Drops the records after a step: the run continues from there and will write them again."""
        replace_text(self.metrics, "".join(json.dumps(r) + "\n" for r in self.records() if r["step"] <= step))

    def record(self, **values: object) -> None:
        """Appends one record. JSON has no NaN and no infinity: `null` is written for them.

        Raises:
            InputError: if it cannot be written.
        """
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with explain_write_errors(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")


def _read(path: Path, remedy: str) -> Any:
    """Returns the contents of `run.json` or `images.json`, or None if the file is missing.

    Raises:
        InputError: for a damaged file; `remedy` says what is possible once it has been removed.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content["data"] if isinstance(content, dict) else content
        if not isinstance(kind, dict) and not (isinstance(kind, list) and all(isinstance(name, str) for name in kind)):
            raise ValueError("it has no description of the data")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); remove it to {remedy}") from error
    return content


def _environment() -> Json:
    """Returns the command, the time, the versions and the machine, which are needed to repeat or judge a run."""
    packages: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip() or None
    return {
        "command": ["cunet", *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "git_commit": commit,
    }
