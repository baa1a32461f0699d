"""`cunet VERB …`: finds the verb, and turns failures into one line and an exit code.

The exit code is 0 for success, and 2 for bad input, such as a full disk. It is 1 for a bug, a run that failed, or
unusable images that `data check` found. After Ctrl-C it is 130, and after SIGTERM 143.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from continuous_unet import __version__
from continuous_unet.base.errors import InputError
from continuous_unet.base.leaves import nearest
from continuous_unet.base.signals import Stopped, Terminated, leave_on_sigterm
from continuous_unet.base.threads import prepare_threads
from continuous_unet.cli.output import say
from continuous_unet.cli.verb import Verb

VERBS = {
    "models": "models:MODELS",
    "train": "train:TRAIN",
    "distill": "distill:DISTILL",
    "schedule": "schedule:SCHEDULE",
    "sample": "sample:SAMPLE",
    "plan": "plan:PLAN",
    "denoise": "denoise:DENOISE",
    "volume": "volume:VOLUME",
    "upscale": "upscale:UPSCALE",
    "inpaint": "inpaint:INPAINT",
    "evaluate generate": "evaluate:GENERATE",
    "evaluate denoise": "evaluate:DENOISE",
    "evaluate upscale": "evaluate:UPSCALE",
    "compare": "compare:COMPARE",
    "data check": "data:CHECK",
    "profile": "profile:PROFILE",
    "export": "export:EXPORT",
    "depths": "depths:DEPTHS",
    "prune": "prune:PRUNE",
    "run": "run:RUN",
    "app": "app:APP",
    "app fetch": "app_fetch:FETCH",
}
"""The module and the constant of each `Verb` in this package. The first word of two is a group of verbs."""


def load_verb(name: str) -> Verb:
    """Returns a verb of the table; imports no torch."""
    module, _, constant = VERBS[name].partition(":")
    verb: Verb = getattr(import_module(f"continuous_unet.cli.{module}"), constant)
    return verb


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    prog = "cunet"
    prepare_threads()
    try:
        name, rest = find_verb(words)
        prog = f"cunet {name}".strip()
        with leave_on_sigterm():
            code = overview(name) if rest is None else load_verb(name).run(prog, rest)
            sys.stdout.flush()
        return code
    except SystemExit as leaving:  # argparse leaves by itself after --help
        return leaving.code if isinstance(leaving.code, int) else 2
    except BrokenPipeError:  # the reader of our output left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        say(f"{prog}: interrupted", sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    except Stopped as stopped:
        say(f"{prog}: stopped", sys.stderr)
        return 128 + stopped.signal
    except Exception as error:
        if "--debug" in words:
            import traceback

            say(traceback.format_exc(), sys.stderr)
        line, code = explain(error)
        say(f"{prog}: {line}", sys.stderr)
        return code


def find_verb(words: list[str]) -> tuple[str, list[str] | None]:
    """Returns the name of the verb and the words after it; None for these if an overview of verbs was asked for.

    Raises:
        InputError: for an unknown verb, with the nearest one.
    """
    for length in (2, 1):
        name = " ".join(words[:length])
        if len(words) >= length and name in VERBS:
            return name, words[length:]
    group = f"{words[0]} " if words and any(verb.startswith(f"{words[0]} ") for verb in VERBS) else ""
    rest = words[1:] if group else words
    if rest[:1] in (["--help"], ["-h"], ["--version"]):
        return (group.strip() if rest[0] != "--version" else "--version"), None
    choices = [verb.removeprefix(group) for verb in VERBS if verb.startswith(group)]
    shown = ", ".join(dict.fromkeys(verb.partition(" ")[0] for verb in choices))
    where = f"cunet {group}--help"
    if not rest:
        raise InputError(f"a verb is missing: one of {shown} (see `{where}`)")
    raise InputError(f"unknown verb {rest[0]!r}, expected one of {shown}{nearest(rest[0], choices)} (see `{where}`)")


def overview(group: str) -> int:
    """Prints the version, or all verbs, or those of a group."""
    if group == "--version":
        say(f"cunet {__version__}")
        return 0
    lines = [
        f"  {name:20}{load_verb(name).description.splitlines()[0]}"
        for name in VERBS
        if name.startswith(f"{group} ".lstrip())
    ]
    title = "" if group else "Small, fast diffusion models with continuous U-Nets.\n\n"
    usage = f"usage: cunet {group} VERB …".replace("  ", " ")
    say("\n".join([usage, "", title + "verbs:", *lines, "", "`cunet VERB --help` describes a verb with examples."]))
    return 0


def explain(error: Exception) -> tuple[str, int]:
    """Returns the line that is printed for an exception, and the exit code."""
    line = " ".join(str(error).split()) or type(error).__name__
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return f"error: {line}", code
    if isinstance(error, ImportError) and not (error.name or "").startswith("continuous_unet"):
        extra = "" if "continuous-unet[" in line else "; a package is missing: pip install 'continuous-unet[train]'"
        return f"error: {line}{extra}", InputError.exit_code
    # torch's own class, by name: torch may not even be imported
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in line:
        return f"error: not enough memory ({line}); make batches or images smaller", 1
    return f"internal error: {type(error).__name__}: {line} (--debug shows the traceback)", 1
