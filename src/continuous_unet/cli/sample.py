"""Make images with a trained model: a run folder, or any saved pipeline or model.

cunet sample runs/digits --num 64 --steps 50 --scheduler ddim --seed 0 --output digits.png
"""

import argparse

from continuous_unet.cli.arguments import add_fields
from continuous_unet.cli.restoration import run_call
from continuous_unet.tasks.generate.options import SampleOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run folder of `cunet train`, or a saved model")
    add_fields(parser, SampleOptions, skip=("model",))
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def run(arguments: argparse.Namespace) -> int:
    return run_call(arguments, SampleOptions, "continuous_unet.tasks.generate.run:sample_images")
