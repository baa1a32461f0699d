"""Look at images before training: which can be used, which cannot, and why.

cunet data check photos/
cunet data check photos.zip --json

Exit code 0 if all can be used as they are, 1 if some cannot, 2 if there is nothing to look at.
"""

import argparse

from continuous_unet.cli.arguments import add_fields
from continuous_unet.cli.restoration import run_call
from continuous_unet.data.options import DataOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", metavar="check", choices=("check",), help="decode every image")
    parser.add_argument("data", metavar="DATA", help="what `cunet train --data` takes")
    add_fields(parser, DataOptions, skip=("data",))
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(arguments: argparse.Namespace) -> int:
    return run_call(arguments, DataOptions, "continuous_unet.data.check:check_data")
