"""Train a continuous U-Net on a folder of images, an archive, IDX files, a .npz, a Hugging Face set or a built-in one.

cunet train --data digits --image-size 16 --preset tiny --output runs/digits --steps 2000
cunet train --output runs/digits --resume
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.cli.old_arguments import add_fields, make_options, print_json, read_config
from continuous_unet.training.config import TrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_fields(parser, TrainConfig)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output, with its settings")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    layers = [read_config(arguments.config, TrainConfig)]
    if arguments.resume:
        output = getattr(arguments, "output", layers[0].get("output"))
        if not output:
            raise InputError("--resume needs --output, the folder of the run")
        if not (Path(output) / "config.yaml").is_file():
            raise InputError(f"{output} holds no run to resume; start one without --resume")
        layers.insert(0, TrainConfig.load(Path(output) / "config.yaml").to_dict())
    config = make_options(TrainConfig, arguments, *layers)
    if arguments.print_config:
        print(yaml.safe_dump(config.to_dict(), sort_keys=False), end="")
        return 0
    config.validate()

    from continuous_unet.training.trainer import train

    result = train(config, resume=arguments.resume)
    if int(os.environ.get("RANK", "0")) > 0:  # one of several processes, and not the one that speaks
        pass
    elif arguments.json:
        print_json(dataclasses.asdict(result))
    else:
        print(
            f"{result.run}: {result.steps:,} steps, loss {result.loss:.4f}, {result.seconds:.0f} s, "
            f"{result.images_per_second:.0f} images/s",
            file=sys.stderr,
        )
    return 0 if result.stopped_by is None else 128 + result.stopped_by
