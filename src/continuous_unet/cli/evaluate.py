"""Measure models: restoration as the literature does, generation by FID and KID.

cunet evaluate denoise --data BSD68 --sigma 15 25 50 --json
cunet evaluate upscale --data Set5 --scale 4
cunet evaluate denoise --data photos/ --model runs/ours runs/discrete --timesteps 50 100 150 200 250 400
cunet evaluate generate --data photos/ --model runs/ours

The third form is the experiment of arXiv 2310.20092: images noised to timesteps of a diffusion model and brought back.
"""

import argparse
import dataclasses
import sys

import yaml

from continuous_unet.cli.arguments import add_fields, make_options, print_json, read_config
from continuous_unet.evaluation.options import (
    EvaluateDenoiseOptions,
    EvaluateGenerateOptions,
    EvaluateUpscaleOptions,
)

OPTIONS = {
    "denoise": EvaluateDenoiseOptions,
    "upscale": EvaluateUpscaleOptions,
    "generate": EvaluateGenerateOptions,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK", choices=tuple(OPTIONS), help=", ".join(OPTIONS))
    seen: list[str] = []
    for kind in OPTIONS.values():
        add_fields(parser, kind, skip=tuple(seen))
        seen += [field.name for field in dataclasses.fields(kind)]
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(arguments: argparse.Namespace) -> int:
    kind = OPTIONS[arguments.task]
    options = make_options(kind, arguments, read_config(arguments.config, kind))
    if arguments.print_config:
        print(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), end="")
        return 0
    options.validate()

    from continuous_unet.evaluation.quality import run as calls

    names = {
        "denoise": "evaluate_denoising",
        "upscale": "evaluate_upscaling",
        "generate": "evaluate_generation",
    }
    result = getattr(calls, names[arguments.task])(options)
    for note in result.notes():
        print(f"cunet evaluate: {note}", file=sys.stderr)
    if arguments.json:
        print_json(result.to_dict())
    elif result.to_text():
        print(result.to_text())
    return result.exit_code
