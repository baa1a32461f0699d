"""What the verbs `denoise`, `upscale` and `inpaint` share: their common options, the run over files, the last line."""

import argparse
import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.cli.old_arguments import add_fields, print_json


def option(default: Any, text: str) -> Any:
    """A field with the help text that the command line shows."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class FileOptions:
    """Options of every verb that makes better images of images."""

    model: str | None = option(None, "a run folder, a saved model, or one that comes with the package")
    output: str = option("", "a file, or a folder for several inputs")
    seed: int = option(0, "seed of what is random")
    tile: int = option(512, "side of the tiles that large images are cut into, pixels")
    overlap: int = option(64, "pixels that neighbouring tiles share")
    solver_steps: int | None = option(None, "solver steps in each block; as trained if left out")
    device: str | None = option(None, "cpu, cuda or mps; the best there is if left out")
    overwrite: bool = option(False, "write over files that are there")

    def validate(self) -> Any:
        if self.overlap < 0 or self.tile < 2 * max(self.overlap, 8):
            raise InputError(
                f"--tile {self.tile} --overlap {self.overlap}: tiles must be at least 16 pixels and twice the overlap"
            )
        return self


@dataclass
class SamplingOptions(FileOptions):
    """Options of the verbs that can run a diffusion."""

    mode: Literal["mean", "sample"] = option("mean", "mean: one evaluation, highest PSNR; sample: several, sharper")
    steps: int = option(20, "evaluations of the model with --mode sample")

    def validate(self) -> Any:
        super().validate()
        if self.steps < 1:
            raise InputError(f"--steps {self.steps} must be at least 1")
        return self


def add_file_arguments(parser: argparse.ArgumentParser, kind: type, skip: tuple[str, ...] = ()) -> None:
    """Inputs, `-o`, the fields of the options, `--json`."""
    parser.add_argument("inputs", metavar="IN", nargs="+", help="image files, and folders of them")
    add_fields(parser, kind, skip=("output", *skip))
    parser.add_argument(
        "-o", "--output", metavar="OUT", default=argparse.SUPPRESS, help="a file, or a folder for several inputs"
    )
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def load(options: FileOptions, name: str, task: str) -> Any:
    """The pipeline of a verb, on its device."""
    from continuous_unet.base.devices import pick_device
    from continuous_unet.tasks.loading import load_restorer, set_solver_steps

    pipeline = load_restorer(name, task, device=pick_device(options.device))
    if options.solver_steps is not None:
        set_solver_steps(pipeline.unet, options.solver_steps)
    return pipeline


def run_files(
    arguments: argparse.Namespace, options: FileOptions, jobs: list[tuple[Path, Path]], restore: Any, **facts: Any
) -> int:
    """Restore the files, print what was done, and give the exit code: 2 if a file failed."""
    from continuous_unet.base.signals import stop_on_signals
    from continuous_unet.tasks.files import restore_files

    with stop_on_signals() as stop:
        result = restore_files(jobs, restore, stop=stop, description=arguments.verb)
    if arguments.json:
        rate = result.megapixels / result.seconds if result.seconds else 0.0
        told = dataclasses.asdict(result) | {
            "megapixels": round(result.megapixels, 3), "seconds": round(result.seconds, 3),
            "megapixels_per_second": round(rate, 3),
        }  # fmt: skip
        print_json({**facts, **told})
    else:
        for entry in result.files:
            for note in entry["notes"]:
                print(f"{entry['input']}: {note}", file=sys.stderr)
        where = jobs[0][1] if len(jobs) == 1 else Path(options.output)
        failed = f", {len(result.failed)} failed" if result.failed else ""
        print(f"{len(result.files)} of {len(jobs)} images in {result.seconds:.1f} s{failed}: {where}")
    if result.stopped_by is not None:
        print(f"cunet {arguments.verb}: stopped; {len(result.files)} of {len(jobs)} files are done", file=sys.stderr)
        return 128 + result.stopped_by
    return 2 if result.failed else 0
