"""Run an exported model, without torch: make images, or take noise out of one.

cunet run --model exported --num 16 --steps 20 --sampler dpm++ --seed 0 --output images.png
cunet run --model exported --input noisy.png --sigma 25 --output clean.png
"""

import argparse
import dataclasses
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.cli.old_arguments import add_fields, make_options, print_json, read_config


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class RunOptions:
    """Options of the verb."""

    output: str = _option("images.png", "a .png file (a grid if there are several images), or a folder")
    num: int = _option(16, "number of new images")
    steps: int = _option(50, "evaluations of the model per image")
    sampler: Literal["ddim", "dpm++"] = _option("ddim", "sampling method")
    seed: int = _option(0, "image k is made from this seed and k alone; not the images of `cunet sample`")
    batch_size: int = _option(64, "images at a time; does not change them")
    class_label: int | None = _option(None, "class of the images, for class-conditional models")
    input: str | None = _option(None, "an image to take noise out of, or to enlarge, instead of making new ones")
    sigma: float | None = _option(None, "standard deviation of its noise, of pixel values up to 255")
    mode: Literal["mean", "sample"] = _option("mean", "with --input: one evaluation, or --steps of them, sharper")
    threads: int | None = _option(None, "threads of an evaluation; as many as there are cores if left out")
    overwrite: bool = _option(False, "write over files that are there")

    def validate(self) -> "RunOptions":
        for name in ("num", "steps", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value} must be at least 1")
        return self


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR", required=True, help="a folder of `cunet export`")
    add_fields(parser, RunOptions)
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def run(arguments: argparse.Namespace) -> int:
    options = make_options(RunOptions, arguments, read_config(arguments.config, RunOptions))
    if arguments.print_config:
        print(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), end="")
        return 0
    options.validate()

    from continuous_unet.base.signals import stop_on_signals
    from continuous_unet.deploy.standalone import runtime

    started = time.perf_counter()
    with stop_on_signals() as stop:

        def go_on() -> None:
            if stop.signal is not None:
                raise KeyboardInterrupt

        try:
            runtime.image_paths(options.output, options.num if options.input is None else 1, options.overwrite)
            images = runtime.run(
                runtime.load(arguments.model, options.threads, {"executorch": _open_executorch}),
                image=options.input,
                num=options.num,
                steps=options.steps,
                sampler=options.sampler,
                seed=options.seed,
                class_label=options.class_label,
                sigma=options.sigma,
                mode=options.mode,
                batch_size=options.batch_size,
                on_step=go_on,
            )
            paths = runtime.save_images(images, options.output, options.overwrite)
        except runtime.ExportedModelError as error:
            raise InputError(str(error)) from error
        except KeyboardInterrupt:
            print("cunet run: stopped; nothing was written", file=sys.stderr)
            return 128 + (stop.signal or 2)
    seconds = time.perf_counter() - started
    if arguments.json:
        result = {"images": len(images), "files": [str(p) for p in paths], "seconds": round(seconds, 3)}
        print_json({**result, "images_per_second": round(len(images) / seconds, 3)})
    else:
        print(f"{len(images)} images in {seconds:.1f} s: {paths[0] if len(paths) == 1 else paths[0].parent}")
    return 0


def _open_executorch(path: Path, threads: int | None) -> Any:
    """The one format here whose runtime needs torch."""
    from continuous_unet.deploy.formats.to_executorch import open_executorch

    return open_executorch(path, threads)
