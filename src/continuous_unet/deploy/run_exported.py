"""The library call behind `cunet run`: images from an exported model. Imports no torch, and works without it."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import CallResult, Json, counted
from continuous_unet.base.signals import Stopped, StopRequest, stop_on_signals
from continuous_unet.deploy.options import RunOptions
from continuous_unet.deploy.standalone import runtime
from continuous_unet.tasks.packaged import is_packaged


@dataclass
class RunResult(CallResult):
    """The result of `run_exported`."""

    images: int
    files: list[str]
    seconds: float
    stopped_by: int | None = None
    """The signal that ended the work, if one did; nothing was written then."""

    def to_dict(self) -> Json:
        seconds, rate = round(self.seconds, 3), round(self.images / self.seconds, 3) if self.seconds else 0.0
        return {"images": self.images, "files": self.files, "seconds": seconds, "images_per_second": rate}

    def to_text(self) -> str:
        made = counted(self.images, "clip" if any(name.endswith(".gif") for name in self.files) else "image")
        where = self.files[0] if len(self.files) == 1 else Path(self.files[0]).parent if self.files else ""
        return f"{made} in {self.seconds:.1f} s: {where}" if self.files else ""

    def notes(self) -> list[str]:
        return ["stopped; nothing was written"] if self.stopped_by is not None else []


def run_exported(options: RunOptions, *, stop: StopRequest | None = None) -> RunResult:
    """Makes new images or clips with an exported model, or denoises or upscales one, and writes them.

    Args:
        options: the model, and what to make.
        stop: is checked before every evaluation of the network. If None, signals stop the work.

    Raises:
        InputError: for an export, an image or options that cannot be used, and if a file cannot be written.
    """
    options.validate()
    if is_packaged(options.model):
        raise InputError(
            f"{options.model} is a model of the package; export it first (cunet export {options.model} --output "
            f"{options.model}-onnx) and run that, or use `cunet sample {options.model}`"
        )
    started = time.perf_counter()
    with stop_on_signals() if stop is None else contextlib.nullcontext(stop) as request:
        try:
            images, paths = runtime.run(options, {"executorch": _open_executorch}, request.check)
        except runtime.ExportedModelError as error:
            raise InputError(str(error)) from error
        except Stopped as stopped:
            return RunResult(0, [], time.perf_counter() - started, stopped.signal)
    return RunResult(images, [str(path) for path in paths], time.perf_counter() - started)


def _open_executorch(path: Path, threads: int | None, names: Sequence[str]) -> runtime.Network:
    """Opens a network of the one format here whose runtime needs torch."""
    from continuous_unet.deploy.formats.to_executorch import open_executorch

    return open_executorch(path, threads, names)
