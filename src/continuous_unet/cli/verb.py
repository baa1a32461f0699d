"""The skeleton of every verb: parse, read the configuration, check, one library call, print its result."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, build, flatten, read_layer, to_yaml
from continuous_unet.base.results import CallResult, Json
from continuous_unet.cli.arguments import Parser, given_values
from continuous_unet.cli.output import say


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Args:
        options: the options class of its call; imports no torch.
        call: the library call as `module:function`, imported when the verb runs.
        description: the text above the options in its own `--help`: what it does, with examples. Its first line is
            also the line of the verb in `cunet --help`.
        resume: for a verb with `--resume`, a function that returns the options of the work in a folder (`--output`).
    """

    options: type[Options]
    call: str
    description: str
    resume: Callable[[str], Json] | None = None

    def parser(self, prog: str) -> Parser:
        """Returns the parser of its arguments."""
        parser = Parser(prog, self.description)
        parser.add_options(self.options)
        common = parser.add_argument_group("about this command")
        if self.resume is not None:
            common.add_argument("--resume", action="store_true", help="continue what was stopped in --output")
        common.add_argument("--json", action="store_true", help="print the result as JSON")
        common.add_argument("--config", metavar="FILE", help="YAML file of options; those given here take precedence")
        common.add_argument("--print-config", action="store_true", help="print the options as YAML and stop")
        common.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return parser

    def run(self, prog: str, words: Sequence[str]) -> int:
        """Runs the verb and returns the exit code.

        Raises:
            InputError: for words, files and values that cannot be used.
        """
        notes: list[str] = []
        arguments = self.parser(prog).parse(words, notes)
        resume = self.resume is not None and arguments.resume
        given = given_values(arguments, self.options)
        layers = [] if arguments.config is None else [read_layer(self.options, arguments.config, notes)]
        if self.resume is not None and resume:
            output = str(given.get("output") or (layers[0].get("output") if layers else None) or "")
            if not output:
                raise InputError("--resume needs --output, the folder of what was stopped")
            layers.insert(0, flatten(self.options, self.resume(output)))
        options = build(self.options, *layers, given=given, notes=notes)
        # of the processes of one job, which all come here, the first one speaks
        speaks = os.environ.get("RANK", "0") == "0"
        for note in notes if speaks else []:
            say(f"note: {note}", sys.stderr)
        if arguments.print_config:
            say(to_yaml(options).removesuffix("\n"))
            return 0
        options.validate()
        module, _, function = self.call.partition(":")
        call: Callable[..., CallResult] = getattr(import_module(module), function)
        result = call(options, resume=True) if resume else call(options)
        if speaks:
            _print(result, arguments.json)
        return result.exit_code


def _print(result: CallResult, as_json: bool) -> None:
    for note in result.notes():
        say(note, sys.stderr)
    text = json.dumps(result.to_dict(), indent=1, default=str) if as_json else result.to_text()
    if text:
        say(text)
