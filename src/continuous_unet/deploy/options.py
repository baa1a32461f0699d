"""The options of `cunet export` and `cunet run`. Imports neither torch nor NumPy: `cunet --help` reads it."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, option
from continuous_unet.deploy.formats import FORMATS, PRECISIONS

if TYPE_CHECKING:
    from typing_extensions import Self

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.5}
"""Largest allowed error against PyTorch, by precision: absolute, of predictions of unit scale.

At fp32 only rounding errors are left, fp16 has about three decimal digits, and int8 is bounded loosely here and judged
by the quality of its images.
"""
ANY_STEPS = "any"
"""What is given in place of a number of solver steps for a network that is told it."""
MOST_PIXELS = 2**24
"""Upper limit for a batch of fixed size; it is that of `runtime.py`, which can import nothing from here."""


def model_argument(text: str, metavar: str) -> Any:
    """Declares the first argument of a verb, which names a model."""
    return option("", text, positional=True, old=("--model",), required=True, metavar=metavar)


@dataclass
class ExportOptions(Options):
    """Options of `export`."""

    model: str = model_argument("run folder of `cunet train`, saved model, or model of the package", "RUN_OR_MODEL")
    output: str = option("", "new folder for the network, export.json and runtime.py", required=True)
    format: str = option("onnx", "file format of the network", choices=FORMATS)
    precision: str = option("fp32", "precision of the weights; inputs and outputs stay float32", choices=PRECISIONS)
    calibration_data: str | None = option(
        None, "images like those that the model was trained on, to choose the ranges of --precision int8 with"
    )
    calibration_images: int = option(
        128, "number of calibration images; each is noised to a different timestep", at_least=32
    )
    solver_steps: int | str | None = option(
        None,
        "number of solver steps in each block, or any: the number becomes an input of the network (ONNX and OpenVINO), "
        "for cunet run --solver-steps (default: as trained)",
        metavar="STEPS",
    )
    solver_loop: Literal["auto", "unrolled", "loop"] = option(
        "auto",
        "write each solver step out, or keep a loop in the graph (ONNX and OpenVINO); auto keeps a loop for more than "
        "4 solver steps",
    )
    static_shape: str | None = option(
        None,
        "the only shape that the network accepts, as BATCHxHEIGHTxWIDTH, such as 1x64x64; clips keep their frames",
        metavar="BxHxW",
    )
    any_size: bool = option(False, "accept images of every size that the model accepts, not only of its training size")
    tolerance: float | None = option(
        None,
        "largest allowed error against PyTorch; 1e-4 for fp32, 2e-2 for fp16 and 0.5 for int8 if left out",
        above=0,
    )
    repeats: int = option(20, "number of timed evaluations next to PyTorch; 0 measures no latency", at_least=0)
    web: bool = option(False, "add a page that runs the model in a browser (ONNX only); see `cunet app fetch`")
    ort_dir: str | None = option(
        None,
        "folder of onnxruntime-web for --web; that of `cunet app fetch` if left out",
        metavar="DIR",
    )
    overwrite: bool = option(False, "replace an earlier export in --output")

    def validate(self) -> "Self":
        """Checks every option by itself, and against the format and the precision."""
        super().validate()
        for flag, is_asked, names in (
            (f"--precision {self.precision}", True, [n for n, f in FORMATS.items() if self.precision in f.precisions]),
            ("--solver-loop loop", self.solver_loop == "loop", [n for n, f in FORMATS.items() if f.loops]),
            (f"--solver-steps {ANY_STEPS}", self.solver_steps == ANY_STEPS, [n for n, f in FORMATS.items() if f.loops]),
            ("--web", self.web, [n for n, f in FORMATS.items() if f.web]),
        ):
            if is_asked and self.format not in names:
                raise InputError(f"{flag} is not for --format {self.format}, only for {', '.join(names)}; leave it out")
        steps = self.solver_steps
        if steps not in (None, ANY_STEPS) and not (isinstance(steps, int) and steps >= 1):
            raise InputError(f"--solver-steps {steps} must be a number of at least 1, or {ANY_STEPS}")
        if steps == ANY_STEPS and (self.solver_loop == "unrolled" or self.precision == "int8"):
            other = "--precision int8" if self.precision == "int8" else "--solver-loop unrolled"
            raise InputError(f"--solver-steps {ANY_STEPS} needs a loop in the network; give a number with {other}")
        is_int8, data = self.precision == "int8", self.calibration_data
        if is_int8 and data is None:
            raise InputError("--precision int8 needs --calibration-data: images like those of the model's training")
        if not is_int8 and data is not None:
            raise InputError(f"--calibration-data is for --precision int8, and this is {self.precision}; leave it out")
        if is_int8 and self.solver_loop == "loop":
            raise InputError(
                "--precision int8 writes each solver step out, with its own ranges; leave out --solver-loop loop"
            )
        if self.static_shape is not None and self.any_size:
            raise InputError("--any-size and --static-shape contradict each other; give one of them")
        self.shape()
        return self

    def shape(self) -> tuple[int, int, int] | None:
        """Returns batch, height and width of `static_shape`, or None without one; raises InputError if it is wrong."""
        if self.static_shape is None:
            return None
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})x(\d{1,5})", self.static_shape)
        batch, height, width = map(int, match.groups()) if match else (0, 0, 0)
        if 0 in (batch, height, width):
            raise InputError(
                f"--static-shape {self.static_shape!r} is not a shape; expected BATCHxHEIGHTxWIDTH, such as 1x64x64"
            )
        if math.prod((batch, height, width)) > MOST_PIXELS:
            raise InputError(f"--static-shape {self.static_shape}: at most {MOST_PIXELS:,} pixels are allowed")
        return batch, height, width

    def allowed_error(self) -> float:
        """Returns the tolerance that was given, or that of the precision."""
        return TOLERANCES[self.precision] if self.tolerance is None else self.tolerance


@dataclass
class RunOptions(Options):
    """Options of `run_exported`."""

    model: str = model_argument("folder that `cunet export` wrote", "EXPORT")
    output: str | None = option(
        None,
        "PNG file (a grid if there are several images), GIF file for clips, or a folder (default: images.png, or "
        "clips.gif)",
        short="-o",
    )
    num: int = option(16, "number of new images or clips", at_least=1)
    steps: int | None = option(
        None,
        "number of sampling steps: evaluations of the model per image (default: 50, or the most that a distilled model "
        "has)",
        at_least=1,
    )
    scheduler: Literal["ddim", "dpm++", "euler", "own"] | None = option(
        None,
        "sampling method (default: the model's own times for this number of steps, else ddim, and euler for flow "
        "matching)",
        old=("--sampler",),
    )
    seed: int = option(0, "seed; image k depends on it and on k alone, and differs from the image of `cunet sample`")
    batch_size: int = option(64, "number of images at a time; does not change the images", at_least=1)
    class_label: str | None = option(
        None,
        "class of the images, by name or number, or any, for models with classes (default: all classes in turn; any "
        "class with --prompt or --image)",
        flat="class",
        old=("--class-label",),
    )
    prompt: str | None = option(None, "what the images are to show, for models with text")
    negative_prompt: str | None = option(None, "what guidance leads away from, for models with text")
    guidance: float | None = option(
        None,
        "guidance scale: how closely the images follow class or prompt; 1 is without guidance (default: the model's)",
        between=(0, 1000),
    )
    guidance_interval: str | None = option(
        None, "part of the noise range with guidance, 0 (no noise) to 1 (default: 0:1)", metavar="LOW:HIGH"
    )
    image: str | None = option(None, "image to start from, instead of noise alone", metavar="FILE")
    strength: float | None = option(
        None, "fraction of the sampling steps that change --image: 1 ignores it (default: 0.8)", above=0, at_most=1
    )
    input: str | None = option(None, "image to denoise or to upscale, instead of making new ones", metavar="FILE")
    sigma: float | None = option(None, "standard deviation of the noise in --input, on the 0–255 scale")
    mode: Literal["mean", "sample"] = option(
        "mean", "with --input: mean is one evaluation; sample takes --steps of them and is sharper"
    )
    solver_steps: int | str | None = option(
        None,
        "number of solver steps in each block, or auto: by noise level, as saved with the model; for exports of cunet "
        "export --solver-steps any (default: as trained)",
        metavar="STEPS",
    )
    threads: int | None = option(None, "number of threads of an evaluation; one for each core if left out", at_least=1)
    overwrite: bool = option(False, "replace files that exist")
