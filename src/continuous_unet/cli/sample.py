"""Make images with a trained model: a run folder, or any saved pipeline or model.

cunet sample runs/digits --num 64 --steps 50 --scheduler ddim --seed 0 --output digits.png
"""

import argparse
import dataclasses
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.cli.old_arguments import add_fields, make_options, print_json, read_config


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class SampleOptions:
    """Options of the verb."""

    output: str = _option("samples.png", "a .png file (a grid if there are several images), or a folder")
    num: int = _option(16, "number of images")
    steps: int = _option(50, "evaluations of the model per image")
    scheduler: Literal["ddpm", "ddim", "dpm++", "unipc", "euler"] = _option("ddim", "sampling method")
    seed: int = _option(0, "image k is made from this seed and k alone")
    batch_size: int = _option(64, "images at a time; does not change them")
    class_label: int | None = _option(None, "class of the images, for class-conditional models")
    solver_steps: int | None = _option(None, "solver steps in each block; as trained if left out")
    device: str | None = _option(None, "cpu, cuda or mps; the best there is if left out")
    dtype: Literal["float32", "float16", "bfloat16"] = _option("float32", "of the weights")
    compile: bool = _option(False, "compile the model with torch.compile first: a minute once, then faster batches")
    overwrite: bool = _option(False, "write over files that are there")

    def validate(self) -> "SampleOptions":
        for name in ("num", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        return self


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run folder of `cunet train`, or a saved model")
    add_fields(parser, SampleOptions)
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def run(arguments: argparse.Namespace) -> int:
    options = make_options(SampleOptions, arguments, read_config(arguments.config, SampleOptions))
    if arguments.print_config:
        print(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), end="")
        return 0
    options.validate()

    import torch

    from continuous_unet.base.devices import pick_device
    from continuous_unet.base.processes import launched_processes
    from continuous_unet.base.signals import Stopped, stop_on_signals
    from continuous_unet.diffusion.samplers import make_scheduler
    from continuous_unet.images.grids import output_paths
    from continuous_unet.tasks.generate.sampling import sample_to_files
    from continuous_unet.tasks.loading import load_pipeline, set_solver_steps

    processes = launched_processes(options.device)
    device = pick_device(options.device) if processes.state is None else processes.state.device
    pipeline = load_pipeline(arguments.model, device=device, dtype=getattr(torch, options.dtype))
    pipeline.scheduler = make_scheduler(options.scheduler, pipeline.scheduler.config)
    if options.solver_steps is not None:
        set_solver_steps(pipeline.unet, options.solver_steps)
    if options.compile:
        pipeline.unet.compile()  # in place
    paths = output_paths(options.output, options.num, options.overwrite)
    processes.wait()  # all have looked whether files are there before one writes any
    started = time.perf_counter()
    with stop_on_signals() as stop:
        try:
            sample_to_files(
                pipeline,
                paths,
                options.num,
                processes=processes,
                stop=stop,
                seed=options.seed,
                num_inference_steps=options.steps,
                batch_size=options.batch_size,
                class_label=options.class_label,
            )
        except Stopped as stopped:
            if processes.main:
                done = sum(path.exists() for path in paths)
                print(f"cunet sample: stopped; {done} of {len(paths)} files are there, each whole", file=sys.stderr)
            return 128 + stopped.signal
        finally:
            processes.end()
    if not processes.main:
        return 0
    seconds = time.perf_counter() - started
    if arguments.json:
        result = {"images": options.num, "files": [str(p) for p in paths], "seconds": round(seconds, 3)}
        print_json({**result, "images_per_second": round(options.num / seconds, 3)})
    else:
        where = paths[0] if len(paths) == 1 else paths[0].parent
        print(f"{options.num} images in {seconds:.1f} s: {where}")
    return 0
