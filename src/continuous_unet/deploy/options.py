"""What can be asked of an export. Imports no torch: `cunet --help` reads it."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import folder_to_make

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.5}
"""Largest error against PyTorch that is let pass, by precision: absolute, of predictions of unit scale.

Float32 leaves rounding, float16 has three decimals; int8 is bounded loosely here, and judged by the quality of images.
"""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ExportOptions:
    """Options of `export_model` and of `cunet export`; `validate` says what is wrong."""

    format: Literal["onnx", "openvino", "executorch", "torch", "aoti"] = _option("onnx", "what the model is to run in")
    output: str = _option("", "a new folder for the network, export.json and the runtime")
    precision: Literal["fp32", "fp16", "int8"] = _option("fp32", "of the weights; inputs and outputs stay float32")
    calibration_data: str | None = _option(None, "images as the model was trained on, for --precision int8")
    calibration_images: int = _option(128, "of them, each with the noise of its own timestep")
    solver_steps: int | None = _option(None, "solver steps in each block; as trained if left out")
    solver_loop: Literal["auto", "unrolled", "loop"] = _option(
        "auto",
        "write each solver step out, or keep a loop in the graph (ONNX and OpenVINO; auto: a loop for many steps)",
    )
    static_shape: str | None = _option(None, "BATCHxHEIGHTxWIDTH, such as 1x64x64: no other shape is accepted then")
    any_size: bool = _option(False, "accept images of every size that the model does, not of one only")
    tolerance: float | None = _option(
        None, "largest error against PyTorch that is let pass (1e-4 for fp32, 2e-2 for fp16, 0.5 for int8 if left out)"
    )
    repeats: int = _option(20, "timed evaluations beside PyTorch; 0 measures no latency")
    web: bool = _option(False, "put a page beside the model that makes images in a browser (ONNX)")
    overwrite: bool = _option(False, "replace an export that is there")

    def validate(self) -> "ExportOptions":
        if not self.output:
            raise InputError("--output is missing: name a folder to export to")
        if self.solver_steps is not None and self.solver_steps < 1:
            raise InputError(f"--solver-steps {self.solver_steps} must be at least 1")
        if self.tolerance is not None and not self.tolerance > 0:
            raise InputError(f"--tolerance {self.tolerance} must be positive")
        if self.precision == "int8" and self.calibration_data is None:
            raise InputError("--precision int8 needs --calibration-data: images as the model was trained on")
        if self.precision != "int8" and self.calibration_data is not None:
            raise InputError(f"--calibration-data is for --precision int8, and this is {self.precision}; leave it out")
        if self.precision == "int8" and self.solver_loop == "loop":
            raise InputError(
                "--precision int8 writes each solver step out, with ranges of its own: no --solver-loop loop"
            )
        if self.calibration_images < 32:
            raise InputError(f"--calibration-images {self.calibration_images} must be at least 32")
        if self.repeats < 0:
            raise InputError(f"--repeats {self.repeats} must not be negative")
        if self.web and self.format != "onnx":
            raise InputError(f"--web is for --format onnx, and --format {self.format} was given")
        if self.static_shape is not None and self.any_size:
            raise InputError("--any-size and --static-shape contradict each other; give one of them")
        self.shape()
        return self

    def shape(self) -> tuple[int, int, int] | None:
        """Batch, height and width of `static_shape`."""
        if self.static_shape is None:
            return None
        from continuous_unet.deploy.standalone.runtime import MOST_PIXELS  # not above: NumPy makes `cunet --help` wait

        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", self.static_shape)
        values = tuple(map(int, match.groups())) if match else (0, 0, 0)
        if min(values) < 1 or max(values) > 65_536:
            raise InputError(
                f"--static-shape {self.static_shape!r} is no shape; expected BATCHxHEIGHTxWIDTH, as 1x64x64"
            )
        if math.prod(values) > MOST_PIXELS:
            raise InputError(f"--static-shape {self.static_shape}: at most {MOST_PIXELS:,} pixels are allowed")
        return values[0], values[1], values[2]

    def allowed_error(self) -> float:
        """The tolerance that was given, or that of the precision."""
        return TOLERANCES[self.precision] if self.tolerance is None else self.tolerance

    def check_output(self) -> Path:
        """The folder to make.

        Raises:
            InputError: if something is there that must not be replaced.
        """
        return folder_to_make(self.output, "export.json", "export", overwrite=self.overwrite)
