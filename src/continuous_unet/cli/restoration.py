"""What the verbs `sample`, `denoise`, `upscale` and `inpaint` share."""

import argparse
import sys
from importlib import import_module

from continuous_unet.base.options import Options, to_yaml
from continuous_unet.base.results import CallResult
from continuous_unet.cli.arguments import add_fields, make_options, print_json, read_config


def add_file_arguments(parser: argparse.ArgumentParser, kind: type[Options]) -> None:
    """Adds inputs, `-o`, the fields of the options, and `--json`."""
    parser.add_argument("inputs", metavar="IN", nargs="+", help="image files, and folders of them")
    add_fields(parser, kind, skip=("inputs", "output"))
    parser.add_argument(
        "-o", "--output", metavar="OUT", default=argparse.SUPPRESS, help="a file, or a folder for several inputs"
    )
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def run_call(arguments: argparse.Namespace, kind: type[Options], call: str) -> int:
    """Makes the options, runs the library call `module:name`, and prints its result."""
    options = make_options(kind, arguments, read_config(arguments.config, kind))
    if arguments.print_config:
        print(to_yaml(options), end="")
        return 0
    options.validate()
    module, _, name = call.partition(":")
    result: CallResult = getattr(import_module(module), name)(options)
    if arguments.json:
        if result.to_dict():
            print_json(result.to_dict())
    elif result.to_text():
        print(result.to_text())
    for note in result.notes():
        print(note, file=sys.stderr)
    return result.exit_code
