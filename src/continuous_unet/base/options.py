"""Options of library calls and verbs: dataclasses whose fields carry their own help text.

One dataclass describes what a call can be asked for. The command line makes its arguments, its `--help`, its checks and
its YAML from it. Imports no torch: `cunet --help` reads it.
"""

from dataclasses import field
from typing import Any


def option(
    default: Any,
    text: str,
    *,
    positional: bool = False,
    short: str | None = None,
    old: tuple[str, ...] = (),
    metavar: str | None = None,
) -> Any:
    """Declares a field of an options dataclass.

    Args:
        default: its default value. A list or dict is copied for each instance.
        text: its help text, which stands alone: what it does, its unit, and what happens if it is left out.
        positional: whether the command line takes it without a flag. A list takes all remaining words.
        short: a short flag, such as `-o`.
        old: former flags, such as `--main-sampler`, which keep working with a note.
        metavar: the placeholder for the value in `--help`; derived from the type if None.
    """
    metadata = {"help": text, "positional": positional, "short": short, "old": old, "metavar": metavar}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)
