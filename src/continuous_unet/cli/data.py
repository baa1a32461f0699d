"""Look at images before training: which can be used, which cannot, and why.

cunet data check photos/
cunet data check photos.zip --json

Exit code 0 if all can be used, 1 if some cannot, 2 if there is nothing to look at.
"""

import argparse
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from continuous_unet.cli.old_arguments import add_fields, make_options, print_json, read_config


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class DataOptions:
    """Options of the verb."""

    split: Literal["train", "test"] = _option("train", "part of the data, where there are several")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", metavar="check", choices=("check",), help="decode every image")
    parser.add_argument("data", metavar="DATA", help="what `cunet train --data` takes")
    add_fields(parser, DataOptions)
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(arguments: argparse.Namespace) -> int:
    options = make_options(DataOptions, arguments, read_config(arguments.config, DataOptions))
    if arguments.print_config:
        print(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), end="")
        return 0

    from continuous_unet.data import check_data

    found = check_data(arguments.data, split=options.split)
    if arguments.json:
        print_json(found.to_dict())
    else:
        print(found.to_text())
    return 1 if found.unusable else 0
