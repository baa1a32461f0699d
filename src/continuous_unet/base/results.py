"""The results of the library calls behind the verbs, so that one skeleton can print all of them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
"""Values by name, as JSON holds them."""


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, in the plural unless there is one: `1 clip`, `2 clips`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass
class CallResult:
    """The base of the results of the library calls behind the verbs.

    A subclass adds its own fields and returns from `to_text` what a person reads on stdout.
    """

    @property
    def exit_code(self) -> int:
        """The exit code of the command line: 0, or 128 plus the number of the signal that stopped the work."""
        stopped_by = getattr(self, "stopped_by", None)
        return 0 if stopped_by is None else 128 + int(stopped_by)

    def to_dict(self) -> Json:
        """Returns the values that `--json` prints."""
        return dataclasses.asdict(self)

    def to_text(self) -> str:
        """Returns the lines that are printed without `--json`; nothing is printed for an empty text."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """Returns lines for stderr, such as why a run stopped."""
        return []
