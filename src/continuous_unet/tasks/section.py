"""The base of the facts of one kind, which are saved with a model; see `facts.py`."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Section:
    """The facts of one kind.

    Fields are numbers, texts, truth values, tuples of them, further sections, or None. A subclass checks its own values
    in `__post_init__`.
    """

    def check_model(self, config: Any) -> None:
        """Checks whether the facts can be those of a U-Net with this configuration, whose entries are attributes.

        Raises:
            ValueError: saying what does not fit.
        """
