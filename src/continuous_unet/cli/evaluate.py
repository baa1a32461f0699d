"""Measure restoration models on a folder of clean images, as the literature does.

cunet evaluate denoise --data BSD68 --sigma 15 25 50 --json
cunet evaluate upscale --data Set5 --scale 4
cunet evaluate denoise --data photos/ --model runs/ours runs/discrete --steps 50 100 150 200 250 400

The last form is the experiment of arXiv 2310.20092: images noised to timesteps of a diffusion model and brought back.
"""

import argparse
import dataclasses
import sys
from typing import Any, Literal

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import option
from continuous_unet.cli.arguments import add_fields, make_options, print_json, read_config


@dataclasses.dataclass
class EvaluateOptions:
    """Options of the verb."""

    data: str = option("", "clean images: a folder, an archive, or what else `cunet train --data` takes")
    model: list[str] = option([], "models to measure; the one that comes with the package if left out")
    sigma: list[float] = option([], "denoise: strengths of the noise, of 255 (15 25 50 if left out)")
    known_sigma: bool = option(False, "denoise: tell a model that wants to know the sigma, rather than estimate it")
    steps: list[int] = option([], "denoise: timesteps of a diffusion model to noise images to, in place of sigma")
    scale: int | None = option(None, "upscale: scale of the packaged model, 2 or 4")
    mode: Literal["mean", "sample"] = option("mean", "mean: one evaluation; sample: several")
    sample_steps: int = option(20, "evaluations of the model with --mode sample")
    num: int | None = option(None, "images at most, the first by name; all if left out")
    solver_steps: int | None = option(None, "solver steps in each block; as trained if left out")
    lpips: bool = option(False, "measure LPIPS too; needs torchvision and weights from the network")
    seed: int = option(0, "seed of the noise")
    tile: int | None = option(None, "side of the tiles, pixels of the input; as of the verb if left out")
    overlap: int | None = option(None, "pixels that neighbouring tiles share; as of the verb if left out")
    device: str | None = option(None, "cpu, cuda or mps; the best there is if left out")

    def validate(self) -> "EvaluateOptions":
        if not self.data:
            raise InputError("no data was named; give a folder of clean images with --data")
        for name in ("sample_steps", "num"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value} must be at least 1")
        for value in self.sigma:
            if not 0 < value <= 255:
                raise InputError(f"--sigma {value} must lie in 0 to 255")
        if self.sigma and self.steps:
            raise InputError("--sigma and --steps are two experiments; give one of them")
        return self


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK", choices=("denoise", "upscale"), help="denoise or upscale")
    add_fields(parser, EvaluateOptions)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(arguments: argparse.Namespace) -> int:
    options = make_options(EvaluateOptions, arguments, read_config(arguments.config, EvaluateOptions))
    if arguments.print_config:
        print(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), end="")
        return 0
    options.validate()

    from continuous_unet.base.devices import pick_device
    from continuous_unet.base.signals import Stopped, stop_on_signals
    from continuous_unet.evaluation.quality.restoration import NO_LPIPS, evaluate_model
    from continuous_unet.images.tiling import Tiles
    from continuous_unet.tasks.loading import load_restorer, set_solver_steps

    size, overlap = (512, 64) if arguments.task == "denoise" else (256, 32)
    tiles = Tiles(options.tile or size, overlap if options.overlap is None else options.overlap)
    default = "denoise-grey" if arguments.task == "denoise" else f"upscale-x{options.scale or 2}"
    rows: list[dict[str, Any]] = []
    stopped_by = None
    with stop_on_signals() as stop:

        def check() -> None:
            if stop.signal is not None:
                raise Stopped(stop.signal)

        try:
            for name in options.model or [default]:
                pipeline = load_restorer(name, arguments.task, device=pick_device(options.device))
                if options.solver_steps is not None:
                    set_solver_steps(pipeline.unet, options.solver_steps)
                found = evaluate_model(
                    pipeline,
                    options.data,
                    sigmas=options.sigma,
                    steps=options.steps,
                    known_sigma=options.known_sigma,
                    most=options.num,
                    mode=options.mode,
                    num_inference_steps=options.sample_steps,
                    seed=options.seed,
                    lpips=options.lpips,
                    tiles=tiles,
                    check=check,
                )
                for row in found:
                    rows.append({"model": name, "data": options.data, **row})
        except Stopped as stopped:
            print(f"cunet evaluate: stopped; {len(rows)} rows are done", file=sys.stderr)
            stopped_by = stopped.signal
    if arguments.json:
        print_json({"rows": rows, "lpips": "measured" if options.lpips else NO_LPIPS})
    else:
        for row in rows:
            print(_line(row))
    return 0 if stopped_by is None else 128 + stopped_by


def _line(row: dict[str, Any]) -> str:
    what = (
        f"step {row['step']}" if "step" in row else f"sigma {row['sigma']:g}" if "sigma" in row else f"x{row['scale']}"
    )
    lpips = "" if row["lpips"] is None else f", LPIPS {row['lpips']:.4f}"
    return (
        f"{row['model']} on {row['data']} ({row['images']} images), {what}: PSNR {row['psnr']:.2f} dB, SSIM "
        f"{row['ssim']:.4f}{lpips} (before: {row['input_psnr']:.2f} dB, {row['input_ssim']:.4f}); "
        f"{row['megapixels_per_second']:.2f} megapixels/s, {row['peak_memory_bytes'] / 2**20:.0f} MiB"
    )
