"""Train and measure continuous and discrete U-Nets side by side on your data, and write a report.

cunet compare --data digits --output runs/compare --budget images=4000 --num-seeds 1 --image-size 16
cunet compare --data PATH --output DIR --sides ours discrete my-side.yaml

A comparison that was stopped goes on by the same command. The report is DIR/report.html.
"""

import argparse
import sys

import yaml

from continuous_unet.cli.arguments import add_fields, make_options, print_json, read_config
from continuous_unet.comparison.config import CompareConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_fields(parser, CompareConfig)
    parser.add_argument("--json", action="store_true", help="print rows and verdicts as JSON")


def run(arguments: argparse.Namespace) -> int:
    config = make_options(CompareConfig, arguments, read_config(arguments.config, CompareConfig))
    if arguments.print_config:
        print(yaml.safe_dump(config.to_dict(), sort_keys=False), end="")
        return 0

    from continuous_unet.comparison.run import compare

    result = compare(config)
    for note in result.notes():
        print(note, file=sys.stderr)
    if arguments.json and result.stopped_by is None:
        print_json(result.to_dict())
    elif result.to_text():
        print(result.to_text())
    return result.exit_code
