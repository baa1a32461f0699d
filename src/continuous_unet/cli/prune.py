"""Remove whole channels of a trained model, the least important ones, and fine-tune what is left.

cunet prune --model runs/digits --data digits --ratio 0.3 --output runs/digits-pruned --steps 2000
cunet prune --output runs/digits-pruned --resume

The folder can be used like a run's: cunet sample, profile, export; and trained further by cunet train --start-from.
"""

import argparse
import dataclasses
import sys

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.cli.old_arguments import add_fields, make_options, print_json, read_config
from continuous_unet.deploy.pruning.options import PruneOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="RUN_OR_MODEL", help="a run folder of `cunet train`, or a saved model")
    add_fields(parser, PruneOptions)
    parser.add_argument("--resume", action="store_true", help="go on with the fine-tuning in --output, as it was begun")
    parser.add_argument("--json", action="store_true", help="print prune.json")


def run(arguments: argparse.Namespace) -> int:
    options = make_options(PruneOptions, arguments, read_config(arguments.config, PruneOptions))
    if arguments.print_config:
        print(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), end="")
        return 0
    if arguments.resume:
        options.data = options.data or "as before"
    elif arguments.model is None:
        raise InputError("--model is missing: name a run of `cunet train`, or a saved model")
    options.validate()

    from continuous_unet.deploy.pruning.run import prune_model, report_text

    report = prune_model(arguments.model, options, resume=arguments.resume)
    if arguments.json:
        print_json(report)
    else:
        print(report_text(report))
    if report["stopped_by"] is not None:
        print(f"cunet prune: stopped; go on with: cunet prune --output {options.output} --resume", file=sys.stderr)
        return 128 + report["stopped_by"]
    return 0
