"""What a model costs: parameters, MACs with every solver stage, evaluations, memory, latency.

cunet profile base --json
cunet profile runs/digits --solver-steps 1
"""

import argparse
import dataclasses

import yaml

from continuous_unet.cli.arguments import add_fields, make_options, print_json, read_config
from continuous_unet.evaluation.options import ProfileOptions
from continuous_unet.models.presets import PRESETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL_OR_PRESET", help=f"a run, a saved model, or one of {', '.join(PRESETS)}"
    )
    add_fields(parser, ProfileOptions, skip=("model",))
    parser.add_argument("--json", action="store_true", help="print the profile as JSON")


def run(arguments: argparse.Namespace) -> int:
    options = make_options(ProfileOptions, arguments, read_config(arguments.config, ProfileOptions))
    if arguments.print_config:
        print(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), end="")
        return 0

    from continuous_unet.evaluation.costs.run import profile

    result = profile(options)
    if arguments.json:
        print_json(result.to_dict())
    else:
        print(result.to_text())
    return result.exit_code
