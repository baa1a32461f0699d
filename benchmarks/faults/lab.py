"""What every part of the campaign uses: processes that run `cunet`, runs that can be compared, rows.

Processes are forked from this one after it has imported everything, which saves five seconds each. They are as real as
any other, with their own pid, signals, files and memory. Nothing here computes with torch, so forking is safe.
"""

import contextlib
import json
import multiprocessing.util
import os
import random
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import continuous_unet.training.trainer  # noqa: F401 (so that children find it imported)
from continuous_unet.cli.main import main
from continuous_unet.data.trajectories.episodes import Episodes
from continuous_unet.training import TrainConfig
from continuous_unet.training.checkpoints import find_damage

PATIENCE = 120.0
"""Seconds after which a process that has not ended counts as hung."""


@dataclass
class Row:
    """One line of the result: what was done, the number of times, and how many times something was lost or wrong."""

    part: str
    case: str
    trials: int
    bad: int
    figures: str = ""
    """What else was measured, in words."""


@dataclass
class Lab:
    """What a part works with: its folder, its random numbers, and whether it runs fewer trials."""

    folder: Path
    rng: random.Random
    short: bool
    rows: list[Row] = field(default_factory=list)

    def number(self, full: int, short: int) -> int:
        return short if self.short else full

    def row(self, part: str, case: str, trials: int, bad: list[str], figures: str = "") -> None:
        """Records a result, and prints what went wrong in full."""
        for problem in bad:
            print(f"  WRONG: {part}, {case}: {problem}", file=sys.stderr)
        self.rows.append(Row(part, case, trials, len(bad), figures))
        print(f"  {case}: {trials} trials, {len(bad)} bad{', ' + figures if figures else ''}", flush=True)


class Child:
    """A process that runs `cunet` with some arguments."""

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        *,
        before: Callable[[], object] = lambda: None,
        environment: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.streams = {
            number: folder / f"{name}-{time.monotonic_ns()}.txt" for number, name in ((1, "out"), (2, "err"))
        }
        self.started = time.monotonic()
        self.code: int | None = None
        self.peak_bytes = 0
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for number, path in self.streams.items():
                os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (to the end of the process)
            sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            os.environ.update(environment or {})
            code = 70  # a failure of the campaign itself
            try:
                before()
                code = main(arguments)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                multiprocessing.util._exit_function()
                os._exit(code)

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def running(self) -> bool:
        return self.code is None and not self._collect(os.WNOHANG)

    def wait(self, patience: float = PATIENCE) -> int:
        """Waits for the end; returns the exit code, or the negative number of the signal that ended it."""
        until = time.monotonic() + patience
        while self.running():
            if time.monotonic() > until:
                self.send(signal.SIGKILL)
                self._collect(0)
                raise TimeoutError(f"a process hung for {patience} s: {self.errors[-500:]}")
            time.sleep(0.003)
        assert self.code is not None
        return self.code

    def _collect(self, options: int) -> bool:
        pid, status, usage = os.wait4(self.pid, options)
        if pid == 0:
            return False
        self.code = os.waitstatus_to_exitcode(status)
        self.peak_bytes = usage.ru_maxrss * 1024
        return True

    @property
    def output(self) -> str:
        return self.streams[1].read_text(encoding="utf-8", errors="replace")

    @property
    def errors(self) -> str:
        return self.streams[2].read_text(encoding="utf-8", errors="replace")

    @property
    def complaint(self) -> list[str]:
        """Returns the lines in which `cunet` itself says what is wrong."""
        return [line for line in self.errors.replace("\r", "\n").splitlines() if line.startswith("cunet")]


def run(arguments: list[str], folder: Path, patience: float = PATIENCE, **options: Any) -> Child:
    child = Child(arguments, folder, **options)
    child.wait(patience)
    return child


def wait_until(condition: Callable[[], bool], children: list[Child], patience: float = PATIENCE) -> bool:
    """Waits until a condition holds; returns False if a process ended first."""
    until = time.monotonic() + patience
    while not condition():
        if not all([child.running() for child in children]):
            return condition()
        if time.monotonic() > until:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.001)
    return True


def processes_environment(count: int) -> list[dict[str, str]]:
    """Returns the environment that `torchrun` would set for each of `count` processes of one machine."""
    port = next(port for port in iter(lambda: random.randrange(20_000, 30_000), None) if _is_free(port))
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def _is_free(port: int) -> bool:
    """Says whether nobody listens on a port, which lies below the range of outgoing connections.

    The system might give a port of that range to a connection in the meantime.
    """
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def tiny(output: Path, **changes: Any) -> TrainConfig:
    """Returns a run of a small model on drawn shapes, with dropout, flips, crops, validation and averages.

    A change to None leaves a setting at its default.
    """
    options: dict[str, Any] = {
        "data": "shapes", "image_size": 8, "output": str(output), "preset": "tiny", "steps": 30, "batch_size": 4,
        "model_options": {
            "block_out_channels": [8, 8], "norm_num_groups": 4, "add_attention": False, "dropout": 0.1,
        },
        "learning_rate": 1e-3, "lr_warmup_steps": 2, "random_flip": True, "random_crop": True, "num_validation": 4,
        "checkpoint_every": 3, "log_every": 1, "validate_every": 6, "sample_every": 12, "sampling_steps": 2,
        "num_samples": 2, "device": "cpu",
    }  # fmt: skip
    return TrainConfig.from_dict({name: value for name, value in {**options, **changes}.items() if value is not None})


def write_episodes(path: Path) -> None:
    """Writes a few episodes of random states and actions, for planners."""
    rng, lengths = np.random.default_rng(0), (20, 30, 25)
    arrays = {"states": rng.normal(size=(sum(lengths), 4)), "actions": rng.normal(size=(sum(lengths), 2))}
    Episodes("episodes", arrays, np.cumsum(lengths)).save(path)


def train_arguments(config: TrainConfig, folder: Path) -> list[str]:
    path = folder / f"{Path(config.output).name}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    config.save(path)
    return ["train", "--config", str(path)]


def resume_arguments(output: Path, *more: str) -> list[str]:
    return ["train", "--output", str(output), "--resume", *more]


def checkpoint_paths(output: Path) -> list[Path]:
    return sorted((output / "checkpoints").glob("step-????????"))


def newest_whole(output: Path) -> Path | None:
    return next((p for p in reversed(checkpoint_paths(output)) if find_damage(p) is None), None)


def contents(checkpoint: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns every tensor and number of a checkpoint, except the time that it took."""
    tensors = {f"{f.stem}/{k}": v for f in checkpoint.glob("*.safetensors") for k, v in load_file(f).items()}
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    state.pop("seconds")
    return tensors, state


def same(one: Path, other: Path) -> bool:
    """Says whether two checkpoints are equal, bit for bit."""
    (tensors, state), (others, other_state) = contents(one), contents(other)
    equal = tensors.keys() == others.keys() and all(v.tobytes() == others[k].tobytes() for k, v in tensors.items())
    return equal and state == other_state


def records(output: Path) -> list[dict[str, Any]]:
    """Returns what was logged, without times."""
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in ("seconds", "images_per_second")} for x in lines]


def differences(output: Path, reference: Path) -> list[str]:
    """Lists how a finished run differs from an uninterrupted one; empty if it does not."""
    found = []
    newest = newest_whole(output)
    if newest is None or not same(newest, reference / "checkpoints" / newest.name):
        found.append(f"the last checkpoint of {output} is not that of {reference}")
    if records(output) != records(reference):
        found.append(f"the records of {output} are not those of {reference}")
    for path in (*(reference / "samples").iterdir(), *(p for p in (reference / "model").rglob("*") if p.is_file())):
        twin = output / path.relative_to(reference)
        if not twin.is_file() or twin.read_bytes() != path.read_bytes():
            found.append(f"{twin} is not {path}")
    if not (output / "report.md").is_file():
        found.append(f"{output} has no report")
    left = [str(p) for p in output.rglob("*") if ".tmp" in p.name or p.name.endswith(".old")]
    return found + ([f"left over: {left}"] if left else [])


def one_line(child: Child, code: int, message: str = "") -> list[str]:
    """Lists what is wrong with a refusal; empty for this exit code and one line that contains this message."""
    problems = []
    if child.code != code:
        problems.append(f"exit code {child.code} instead of {code}: {child.errors[-800:]}")
    if len(child.complaint) != 1 or message not in child.complaint[0]:
        problems.append(f"said {child.complaint!r} instead of one line with {message!r}: {child.errors[-800:]}")
    if "Traceback" in child.errors or "internal error" in child.errors:
        problems.append(f"a traceback or an internal error: {child.errors[-800:]}")
    return problems


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def own_peak_bytes() -> int:
    """Returns the peak memory of this process, which a child starts with."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def tmpfs(where: Path, options: str) -> Iterator[Path | None]:
    """Mounts a file system of its own; yields None where that is not allowed."""
    where.mkdir(parents=True, exist_ok=True)
    if os.system(f"mount -t tmpfs -o {options} tmpfs {where} 2>/dev/null") != 0:
        yield None
        return
    try:
        yield where
    finally:
        os.system(f"umount -l {where}")


def remount(where: Path, options: str) -> None:
    if os.system(f"mount -o remount,{options} {where}") != 0:
        raise OSError(f"{where} could not be remounted with {options}")
