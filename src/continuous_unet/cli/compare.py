"""Train and measure continuous and discrete U-Nets side by side on your data, and write a report.

cunet compare --data digits --output runs/compare --budget images=4000 --num-seeds 1 --image-size 16
cunet compare --data PATH --output DIR --sides ours discrete my-side.yaml

A comparison that was stopped goes on by the same command. The report is DIR/report.html.
"""

import argparse
import dataclasses
import sys

import yaml

from continuous_unet.cli.old_arguments import add_fields, make_options, print_json, read_config
from continuous_unet.comparison.config import CompareConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_fields(parser, CompareConfig)
    parser.add_argument("--json", action="store_true", help="print rows and verdicts as JSON")


def run(arguments: argparse.Namespace) -> int:
    config = make_options(CompareConfig, arguments, read_config(arguments.config, CompareConfig))
    if arguments.print_config:
        print(yaml.safe_dump(config.to_dict(), sort_keys=False), end="")
        return 0
    config.validate()

    from continuous_unet.comparison.run import compare

    result = compare(config)
    if result.stopped_by is not None:
        print(f"stopped; the same command goes on with {config.output}", file=sys.stderr)
        return 128 + result.stopped_by
    if arguments.json:
        print_json(dataclasses.asdict(result))
    else:
        for verdict in result.verdicts:
            print(f"{verdict['verdict'] or '-':7} {verdict['claim']}: {verdict['measured']} ({verdict['target']})")
        print(f"report: {result.report}")
    return 0
