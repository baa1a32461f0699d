"""One value of an options class: its type, its names and its checks. `base/options.py` builds on this."""

import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from continuous_unet.base.errors import InputError

_WITHIN = {"above": operator.gt, "at least": operator.ge, "below": operator.lt, "at most": operator.le}


class Word(str):
    """A value as it was typed on the command line, still to be converted to the type of its field."""


@dataclass(frozen=True)
class Leaf:
    """One value that can be set: a field of an options class or of one of its sections.

    Args:
        name: its name on the command line and in flat files; unique in the options class.
        field: the dataclass field; its `metadata` is what `option` was given.
        annotation: its type.
        section: name of the section that it belongs to; None for the options class itself.
        variants: names of the variants that have it; empty if it does not belong to a variant.
    """

    name: str
    field: "dataclasses.Field[Any]"
    annotation: Any
    section: str | None = None
    variants: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that a value may have; NoneType comes first."""
        annotation = Literal[tuple(self.choices)] if "variants" in self.field.metadata else self.annotation
        if typing.get_origin(annotation) in (typing.Union, types.UnionType):
            return tuple(sorted(typing.get_args(annotation), key=lambda kind: kind is not types.NoneType))
        return (annotation,)

    @property
    def choices(self) -> tuple[object, ...]:
        """The allowed values; empty if any value of the type is allowed."""
        choices = self.field.metadata.get("choices")
        if choices is not None:
            return tuple(choices() if callable(choices) else choices)
        kinds = [item for kind in self.kinds for item in (typing.get_args(kind) if _origin(kind) is list else (kind,))]
        return tuple(choice for kind in kinds if _origin(kind) is Literal for choice in typing.get_args(kind))

    @property
    def flag(self) -> str:
        """The option of the command line, such as `--batch-size`; `--model-option` for a dict `model_options`."""
        name = self.name.removesuffix("s") if any(_origin(kind) is dict for kind in self.kinds) else self.name
        return "--" + name.replace("_", "-")

    @property
    def label(self) -> str:
        """Its name in errors: the flag, or the placeholder of a positional argument."""
        return self.metavar if self.field.metadata.get("positional") else self.flag

    @property
    def metavar(self) -> str:
        """The placeholder for its value in `--help`."""
        if self.field.metadata.get("metavar"):
            return str(self.field.metadata["metavar"])
        if self.field.metadata.get("positional"):
            return self.name.upper()
        if self.choices:
            return "{" + ",".join(map(str, self.choices)) + "}"
        kind = self.kinds[-1]
        if _origin(kind) is list:
            (kind,) = typing.get_args(kind)
        of_text = self.name.rpartition("_")[2].upper()
        return {int: "INT", float: "NUMBER", dict: "KEY=VALUE"}.get(_origin(kind), of_text)

    @property
    def default(self) -> Any:
        """The value if none is given; the name of the default variant for a choice of variants."""
        if "variant" in self.field.metadata:
            return self.field.metadata["variant"]
        if self.field.default is not dataclasses.MISSING:
            return self.field.default
        return None if self.field.default_factory is dataclasses.MISSING else self.field.default_factory()

    def convert(self, value: object) -> Any:
        """Returns a value from a file or from the command line (a `Word`) with the type of the field.

        Raises:
            InputError: naming the option, what it must be, and the nearest choice.
        """
        for kind in self.kinds:
            try:
                return _converted(value, kind)
            except (ValueError, OverflowError):
                continue
        raise InputError(self._expectation(value))

    def check(self, value: object) -> None:
        """Checks type, choices and bounds of a value.

        Raises:
            InputError: naming the option and what it must be.
        """
        if not any(_is(value, kind) for kind in self.kinds):
            raise InputError(self._expectation(value))
        if self.field.metadata.get("required") and (value in ("", None, []) or value == self.field.default):
            raise InputError(f"{self.label} is missing: {self.field.metadata['help']}")
        for item in value if isinstance(value, (list, tuple)) else [value]:
            self._check_item(item)

    def _check_item(self, item: object) -> None:
        if self.choices and item is not None and item not in self.choices:
            raise InputError(self._expectation(item))
        if isinstance(item, float) and not math.isfinite(item):
            raise InputError(f"{self.label} {item} must be finite")
        bounds = self.field.metadata.get("bounds", {})
        if not bounds or not isinstance(item, (int, float)):
            return
        if not all(_WITHIN[relation](item, limit) for relation, limit in bounds.items()):
            wanted = " and ".join(f"{relation} {limit:g}" for relation, limit in bounds.items())
            raise InputError(f"{self.label} {item} must be {wanted}")

    def _expectation(self, value: object) -> str:
        choices = [str(choice) for choice in self.choices]
        typed = str(value) if isinstance(value, Word) else value
        shown = " ".join(map(str, value)) if isinstance(value, list) else repr(typed)
        if not choices:
            return f"{self.label} {shown} must be {' or '.join(_in_words(kind) for kind in reversed(self.kinds))}"
        return f"{self.label} {shown} must be one of {', '.join(choices)}{nearest(str(value), choices)}"


def _origin(kind: Any) -> Any:
    return typing.get_origin(kind) or kind


def _is(value: object, kind: Any) -> bool:
    """Returns whether a value has a type. Integers pass as floats, but True is not the number 1."""
    origin = _origin(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(kind))
    if origin is list:
        return isinstance(value, (list, tuple)) and all(_is(item, typing.get_args(kind)[0]) for item in value)
    if isinstance(value, bool) and origin in (int, float):
        return False
    return isinstance(value, (int, float) if origin is float else origin)


def _converted(value: object, kind: Any) -> Any:
    """Returns a value with that type, or raises ValueError. YAML 1.1 reads `1e-3`, which has no point, as text."""
    origin = _origin(kind)
    if origin is list and isinstance(value, (list, tuple)):
        return [_converted(item, typing.get_args(kind)[0]) for item in value]
    if isinstance(value, str) and origin is float:
        return float(value)
    if isinstance(value, Word):
        if origin is types.NoneType and value.lower() == "none":
            return None
        if origin is Literal:
            value = {str(choice): choice for choice in typing.get_args(kind)}.get(value)
        elif origin in (int, str):
            return origin(str(value))
    if not _is(value, kind):
        raise ValueError(value)
    return float(value) if origin is float and isinstance(value, int) else value


def _in_words(kind: Any) -> str:
    if _origin(kind) is list:
        return {int: "integers", float: "numbers"}.get(typing.get_args(kind)[0], "a list of texts")
    words = {int: "an integer", float: "a number", str: "a text", bool: "true or false", dict: "a mapping"}
    return "none" if kind is types.NoneType else words.get(_origin(kind), str(kind))


def nearest(word: str, names: Iterable[str]) -> str:
    """Returns the hint of an error for a mistyped name; empty if no name is similar."""
    near = difflib.get_close_matches(word, list(names), 1)
    return f"; did you mean {near[0]}?" if near else ""
