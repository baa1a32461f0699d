"""Arguments from dataclasses, and configuration files beneath them: one source of truth for names, types and help."""

import argparse
import dataclasses
import difflib
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import yaml

from continuous_unet.base.errors import InputError

Options = TypeVar("Options")


class Parser(argparse.ArgumentParser):
    """Errors in one line, with exit code 2; `--batch_size` is as good as `--batch-size`; no abbreviations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        for word in words:
            if word.startswith("--") and word.endswith("=--"):  # argparse would drop the value and give an empty list
                self.error(f"argument {word.removesuffix('=--')}: '--' is no value")
        return super().parse_known_args([_with_dashes(word) for word in words], namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.refuse_unknown(unknown)
        return parsed

    def refuse_unknown(self, unknown: list[str]) -> NoReturn:
        """Name the first argument that is none, and the one that was perhaps meant."""
        word = unknown[0].split("=")[0]
        options = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
        near = difflib.get_close_matches(word, options, 1) if word.startswith("-") else []
        self.error(f"unknown argument {word}" + (f"; did you mean {near[0]}?" if near else ""))

    def error(self, message: str) -> NoReturn:
        """One line, exit code 2."""
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {line} (see `{self.prog} --help`)\n")


def _with_dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def flag(name: str) -> str:
    """The option of a field."""
    return "--" + name.replace("_", "-")


def add_fields(parser: argparse.ArgumentParser, kind: type, skip: tuple[str, ...] = ()) -> None:
    """An option for every field of a dataclass; `metadata["help"]` is its help."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in skip:
            continue
        annotation, optional = _without_none(hints[field.name])
        text = field.metadata.get("help", "").replace("%", "%%")
        default = field.default if field.default is not dataclasses.MISSING else None
        if typing.get_origin(annotation) is list and callable(field.default_factory):
            default = " ".join(map(str, field.default_factory()))
        if default not in (None, "", dataclasses.MISSING):
            text += f" (default: {default})"
        # SUPPRESS: an option that was not given must not hide what a configuration file says
        common: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS, "dest": field.name}
        if annotation is bool:
            parser.add_argument(flag(field.name), action=argparse.BooleanOptionalAction, **common)
        elif typing.get_origin(annotation) is Literal:
            parser.add_argument(flag(field.name), choices=typing.get_args(annotation), **common)
        elif typing.get_origin(annotation) is dict:
            name = flag(field.name).removesuffix("s")
            parser.add_argument(name, action="append", type=key_and_value, metavar="KEY=VALUE", **common)
        elif typing.get_origin(annotation) is list:
            (kind_of_item,) = typing.get_args(annotation)
            metavar = kind_of_item.__name__.upper()
            parser.add_argument(flag(field.name), nargs="+", type=kind_of_item, metavar=metavar, **common)
        else:
            convert = _or_none(annotation) if optional else annotation
            parser.add_argument(flag(field.name), type=convert, metavar=annotation.__name__.upper(), **common)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [a for a in typing.get_args(annotation) if a is not type(None)]
        return kinds[0], True
    return annotation, False


def _or_none(kind: Any) -> Any:
    def convert(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    convert.__name__ = kind.__name__  # argparse names it in its errors
    return convert


def key_and_value(text: str) -> tuple[str, Any]:
    """`KEY=VALUE`, the value as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"the value of {key} is not valid YAML: {value!r}") from error


def make_options(kind: type[Options], arguments: argparse.Namespace, *layers: dict[str, Any]) -> Options:
    """A dataclass from layers of values, later ones and the given options last, with types checked.

    Raises:
        InputError: naming the option of a value of the wrong type.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values.update(layer)
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given = {k: v for k, v in vars(arguments).items() if k in names}
    hints = typing.get_type_hints(kind)
    for name, annotation in hints.items():
        if typing.get_origin(_without_none(annotation)[0]) is dict and name in given:
            given[name] = {**values.get(name, {}), **dict(given[name])}
    values.update(given)
    return kind(**{name: _checked(name, value, hints[name]) for name, value in values.items()})


def _checked(name: str, value: Any, annotation: Any) -> Any:
    kind, optional = _without_none(annotation)
    if value is None and optional:
        return None
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if value not in allowed:
            raise InputError(f"{flag(name)} {value!r} is unknown; expected one of {', '.join(map(str, allowed))}")
        return value
    kind = typing.get_origin(kind) or kind
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{flag(name)} must be {kind.__name__}, got {value!r}")
    return value


def read_config(path: str | None, kind: type) -> dict[str, Any]:
    """The values of a `--config` file, which may name any field of the dataclass; nothing if there is no file."""
    from continuous_unet.training.config import read_yaml

    if path is None:
        return {}
    if not Path(path).is_file():
        raise InputError(f"--config {path}: there is no such file")
    return read_yaml(path, [f.name for f in dataclasses.fields(kind)])


def print_json(result: dict[str, Any]) -> None:
    """A result for programs, on stdout."""
    print(json.dumps(result, indent=1, default=str))


@dataclasses.dataclass(frozen=True)
class OldVerb:
    """A verb that is not yet one library call."""

    module: Any
    summary: str
    words: tuple[str, ...] = ()

    def parser(self, prog: str) -> Parser:
        parser = Parser(prog=prog, description=self.module.__doc__)
        self.module.add_arguments(parser)
        parser.add_argument("--config", metavar="FILE")
        parser.add_argument("--print-config", action="store_true")
        parser.add_argument("--debug", action="store_true")
        parser.set_defaults(verb=prog.split()[1])
        return parser

    def run(self, prog: str, words: Any) -> int:
        code: int = self.module.run(self.parser(prog).parse_args([*self.words, *words]))
        return code
