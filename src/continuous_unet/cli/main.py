"""`cunet VERB …`: finds the verb, and turns failures into one line and an exit code.

0 done, 1 a bug, a run that failed, or unusable images that `data check` found, 2 bad input (a full disk is one), 130
and 143 stopped by Ctrl-C and SIGTERM.
"""

import argparse
import os
import sys
from importlib import import_module

from continuous_unet import __version__
from continuous_unet.base.errors import InputError
from continuous_unet.base.signals import Terminated, leave_on_sigterm
from continuous_unet.cli.arguments import Parser

VERBS = {
    "train": "train a continuous U-Net on images",
    "sample": "make images with a trained model",
    "denoise": "remove noise from images",
    "upscale": "enlarge images",
    "inpaint": "fill holes of images with a diffusion model",
    "evaluate": "measure a restoration model on images: denoise, upscale",
    "compare": "train and measure models side by side, and write a report",
    "data": "look at images before training: data check",
    "profile": "parameters, MACs, memory and latency of a model",
    "export": "write a trained model for ONNX Runtime and others, with proof that it computes the same",
    "prune": "remove the least important channels of a trained model, and fine-tune it",
    "run": "make or denoise images with an exported model, without torch",
}
"""Each verb is a module of its name in this package, with `add_arguments(parser)` and `run(arguments) -> exit code`."""


def build_parser() -> Parser:
    """The parser of everything; imports no torch."""
    parser = Parser(prog="cunet", description="Small, fast diffusion models with continuous U-Nets.")
    parser.add_argument("--version", action="version", version=f"cunet {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name, text in VERBS.items():
        module = import_module(f"continuous_unet.cli.{name}")
        verb = verbs.add_parser(name, help=text, description=module.__doc__)
        module.add_arguments(verb)
        verb.add_argument("--config", metavar="FILE", help="YAML file of options; those given here go before it")
        verb.add_argument("--print-config", action="store_true", help="print the resolved options as YAML and stop")
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
        verb.set_defaults(run=module.run, parser=verb)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    try:
        arguments, unknown = build_parser().parse_known_args(argv)
        if unknown:
            arguments.parser.refuse_unknown(unknown)
    except SystemExit as leaving:  # argparse leaves by itself for --help and for errors
        return leaving.code if isinstance(leaving.code, int) else 2
    prog = f"cunet {arguments.verb}"
    try:
        with leave_on_sigterm():
            code = arguments.run(arguments)
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    except Exception as error:
        return _failed(prog, arguments, error)


def _failed(prog: str, arguments: argparse.Namespace, error: Exception) -> int:
    if arguments.debug:
        import traceback

        traceback.print_exc()
    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, InputError):
        print(f"{prog}: error: {line}", file=sys.stderr)
        return 2
    if isinstance(error, ImportError):
        extra = "" if "continuous-unet[" in line else "; a package is missing: pip install 'continuous-unet[train]'"
        print(f"{prog}: error: {line}{extra}", file=sys.stderr)
        return 2
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in line:
        print(f"{prog}: error: not enough memory ({line}); make batches or images smaller", file=sys.stderr)
        return 1
    if type(error).__name__ in ("TrainingDiverged", "ParityError"):
        print(f"{prog}: error: {line}", file=sys.stderr)
        return 1
    print(f"{prog}: internal error: {type(error).__name__}: {line} (--debug shows the traceback)", file=sys.stderr)
    return 1
