"""The folder of a run: what lies where, its records, its report.

config.yaml      the resolved configuration          metrics.jsonl    a record per line
run.json         versions, command, data             samples/         grids while training
checkpoints/     to resume from                      model/           to use: a diffusers pipeline, EMA weights
loss.png, report.md   at the end
"""

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

from continuous_unet.errors import InputError
from continuous_unet.training.config import TrainConfig

# What may differ when a run goes on: it changes how long, how often and where, not what is computed.
MAY_CHANGE = {
    "output", "steps", "num_workers", "device", "compile", "checkpoint_every", "keep_checkpoints", "log_every",
    "validate_every", "sample_every", "num_samples", "sample_steps", "logger", "max_non_finite_steps", "on_bad_image",
}  # fmt: skip


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.facts = self.path / "run.json"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.model = self.path / "model"
        self.metrics = self.path / "metrics.jsonl"

    def start(self, config: TrainConfig, resume: bool, facts: dict[str, Any]) -> None:
        """Claim the folder for a new run, or check that a run may go on here.

        Args:
            config: of the run.
            resume: whether a run is to go on here.
            facts: what else is to be in `run.json`; `facts["data"]` describes the data.

        Raises:
            InputError: for a folder that holds something else, or a configuration or data that changed.
        """
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
        try:
            self.samples.mkdir(parents=True, exist_ok=True)
            config.save(self.config)
            if not self.facts.is_file():  # also where a crash came before it was written
                self._write_facts(facts)
        except OSError as error:
            raise InputError(f"cannot write into {self.path}: {error.strerror}") from error
        if not self.model.exists() and self.model.with_name("model.old").exists():
            os.replace(self.model.with_name("model.old"), self.model)  # a crash came between two renames

    def _check_same_data(self, data: dict[str, Any]) -> None:
        """The order of the images follows from their number: with other data, a run would not go on but start anew."""
        if not self.facts.is_file():
            return
        before = json.loads(self.facts.read_text(encoding="utf-8"))["data"]
        changed = [
            f"{name} {before[name]!r} -> {data[name]!r}"
            for name in ("num_images", "image_size", "channels", "class_names")
            if before[name] != data[name]
        ]
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
        aside = self.facts.with_suffix(".tmp")
        aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(aside, self.facts)

    def records(self) -> list[dict[str, Any]]:
        """The records so far. A last line that a crash cut off is left out."""
        if not self.metrics.exists():
            return []
        records = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
        return records

    def last_loss(self) -> float:
        """The training loss of the newest record, NaN if there is none."""
        return next((r["loss"] for r in reversed(self.records()) if r.get("loss") is not None), math.nan)

    def cut_records(self, step: int) -> None:
        """Drop records after a step: the run goes on from there and will write them again."""
        kept = [json.dumps(r) + "\n" for r in self.records() if r["step"] <= step]
        aside = self.metrics.with_suffix(".tmp")
        aside.write_text("".join(kept), encoding="utf-8")
        os.replace(aside, self.metrics)

    def record(self, **values: Any) -> None:
        """Append one record. JSON knows no NaN and no infinity: `null` is written for them."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")


def _git_commit() -> str | None:
    try:
        run = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None if run.returncode == 0 else None
