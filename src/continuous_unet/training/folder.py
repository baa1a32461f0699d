"""The folder of a run: what lies where, its records, its report.

config.yaml      the resolved configuration          metrics.jsonl    a record per line
run.json         versions, command, data             samples/         grids while training
images.json      names of the images trained on      (where they are files)
checkpoints/     to resume from                      model/           to use: a diffusers pipeline, EMA weights
loss.png, report.md   at the end
"""

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import explain_write_errors, replace_text, sync
from continuous_unet.training.config import TrainConfig

# What may differ when a run goes on: it changes how long, how often and where, not what is computed.
MAY_CHANGE = {
    "output", "steps", "num_workers", "device", "compile", "checkpoint_every", "keep_checkpoints", "log_every",
    "validate_every", "sample_every", "num_samples", "sample_steps", "logger", "max_non_finite_steps", "on_bad_image",
    "max_bad_images",
}  # fmt: skip


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.facts = self.path / "run.json"
        self.images = self.path / "images.json"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.model = self.path / "model"
        self.metrics = self.path / "metrics.jsonl"
        self.report = self.path / "report.md"

    def start(self, config: TrainConfig, resume: bool, facts: dict[str, Any], images: list[str] | None = None) -> None:
        """Claim the folder for a new run, or check that a run may go on here.

        Args:
            config: of the run.
            resume: whether a run is to go on here.
            facts: what else is to be in `run.json`; `facts["data"]` describes the data.
            images: names of the images, where they are files.

        Raises:
            InputError: for a folder that holds something else, or a configuration or data that changed.
        """
        for stale in (*self.path.glob(".*.tmp"), *self.samples.glob(".*.tmp")):  # what a kill left half written
            with contextlib.suppress(OSError):
                stale.unlink()
        if resume:
            if not self.config.is_file():
                raise InputError(f"{self.path} holds no run to resume; start one without --resume")
            changed = [
                f"{name} {old!r} -> {config.to_dict()[name]!r}"
                for name, old in TrainConfig.load(self.config).to_dict().items()
                if name not in MAY_CHANGE and old != config.to_dict()[name]
            ]
            if changed:
                raise InputError(
                    f"the run {self.path} was started with other settings ({'; '.join(changed)}); resume with the old "
                    "ones (leave them out), or start a new run in another --output"
                )
            self._check_same_data(facts["data"])
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            what = "holds a run already" if self.config.is_file() else "is not an empty folder"
            remedy = "; go on with it by --resume, or choose another --output" if self.config.is_file() else ""
            raise InputError(f"{self.path} {what}{remedy or '; choose another --output'}")
        with explain_write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            # Before the configuration, which makes the folder a run that can go on.
            if images is not None and not self.images.is_file():
                replace_text(self.images, json.dumps(images))
            config.save(self.config)
            self.samples.mkdir(exist_ok=True)
            if not self.facts.is_file():  # also where a crash came before it was written
                self._write_facts(facts)
        if not self.model.exists() and self.model.with_name("model.old").exists():
            os.replace(self.model.with_name("model.old"), self.model)  # a crash came between two renames

    def _check_same_data(self, data: dict[str, Any]) -> None:
        """The order of the images follows from their number: with other data, a run would not go on but start anew."""
        if not self.facts.is_file():
            return
        try:
            before = json.loads(self.facts.read_text(encoding="utf-8"))["data"]
            names = [name for name in ("num_images", "image_size", "channels", "class_names") if name in before]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.facts} is damaged ({type(error).__name__}); remove it to resume without a check that "
                "the data is the same"
            ) from error
        changed = [f"{name} {before[name]!r} -> {data[name]!r}" for name in names if before[name] != data[name]]
        if changed:
            raise InputError(
                f"the data of the run {self.path} has changed ({'; '.join(changed)}); put it back as it was, or start "
                "a new run in another --output"
            )

    def _write_facts(self, facts: dict[str, Any]) -> None:
        """Write run.json: what else one needs to repeat or judge the run."""
        packages: dict[str, str | None] = {}
        for name in ("continuous-unet", "torch", "diffusers", "accelerate", "numpy", "pillow"):
            try:
                packages[name] = version(name)
            except PackageNotFoundError:
                packages[name] = None
        content = {
            "command": ["cunet", *sys.argv[1:]],
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "packages": packages,
            "git_commit": _git_commit(),
            **facts,
        }
        replace_text(self.facts, json.dumps(content, indent=1))

    def recorded_images(self) -> list[str] | None:
        """The names of the images that the run was started with; None if they are no files.

        Raises:
            InputError: for a damaged list.
        """
        if not self.images.is_file():
            return None
        try:
            names = json.loads(self.images.read_text(encoding="utf-8"))
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("no list of names")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.images} is damaged ({error}); remove it to resume with the images that are there now"
            ) from error
        return names

    def records(self) -> list[dict[str, Any]]:
        """The records so far. A last line that a crash cut off, and lines that are damaged, are left out."""
        if not self.metrics.exists():
            return []
        records = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
        return records

    def last(self, name: str) -> float | None:
        """A value of the newest record that has it, None if there is none."""
        return next((r[name] for r in reversed(self.records()) if r.get(name) is not None), None)

    def sync_records(self) -> None:
        """Wait until all records are on the disk."""
        if self.metrics.exists():
            with explain_write_errors(self.metrics):
                sync(self.metrics)

    def cut_records(self, step: int) -> None:
        """Drop records after a step: the run goes on from there and will write them again."""
        replace_text(self.metrics, "".join(json.dumps(r) + "\n" for r in self.records() if r["step"] <= step))

    def record(self, **values: Any) -> None:
        """Append one record. JSON knows no NaN and no infinity: `null` is written for them.

        Raises:
            InputError: if it cannot be written.
        """
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with explain_write_errors(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")


def _git_commit() -> str | None:
    try:
        run = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None if run.returncode == 0 else None
