"""Arguments of the command line, made from the options classes of `base/options.py`.

That module also converts and checks the words, so that a value is refused in the same way wherever it comes from.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.base.leaves import Leaf, Word, nearest
from continuous_unet.base.options import Options, leaves
from continuous_unet.base.results import Json
from continuous_unet.cli.output import say


class Parser(argparse.ArgumentParser):
    """A parser that raises InputError, takes `--batch_size` for `--batch-size`, and knows no abbreviations."""

    def __init__(self, prog: str, description: str | None = None) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, allow_abbrev=False, formatter_class=formatter)
        self.renamed: dict[str, str] = {}
        """Present name by former flag."""

    def parse(self, words: Sequence[str], notes: list[str]) -> argparse.Namespace:
        """Parses words; `notes` receives a line for each former name.

        Raises:
            InputError: for words that cannot be understood, with the option that was perhaps meant.
        """
        words = [_with_dashes(word) for word in words]
        for word in words:
            name, equals, value = word.partition("=")
            if word.startswith("--") and equals and value == "--":  # argparse would drop it and give an empty list
                raise InputError(f"argument {name}: '--' is not a value")
            if name in self.renamed:
                notes.append(f"{name} is now called {self.renamed[name]}")
        parsed, unknown = self.parse_known_args(words)
        if unknown:
            word = unknown[0].partition("=")[0]
            options = [
                o for a in self._actions for o in a.option_strings if o.startswith("--") and a.help != argparse.SUPPRESS
            ]
            self.error(f"unknown argument {word}{nearest(word, options) if word.startswith('-') else ''}")
        return parsed

    def add_options(self, kind: type[Options]) -> None:
        """Adds an argument for every option of a class, under a heading for each section."""
        headings: dict[str | None, argparse._ActionsContainer] = {None: self}
        known = leaves(kind)
        for leaf in known.values():
            if leaf.section not in headings:
                headings[leaf.section] = self.add_argument_group(_heading(kind, leaf.section))
            self._add(headings[leaf.section], leaf, _help(leaf, known))
        words = [leaf.metavar for leaf in known.values() if leaf.field.metadata.get("positional")]
        self.usage = " ".join([self.prog, *words, "[options]"])

    def _add(self, place: argparse._ActionsContainer, leaf: Leaf, text: str) -> None:
        kinds = {getattr(kind, "__origin__", kind) for kind in leaf.kinds}
        former, short = leaf.field.metadata.get("old", ()), leaf.field.metadata.get("short")
        # SUPPRESS: an option that was not given must not hide what a configuration file says
        common: Json = {"dest": leaf.name, "default": argparse.SUPPRESS}
        if bool in kinds:
            common["action"] = argparse.BooleanOptionalAction
        elif dict in kinds:
            common |= {"action": "append", "type": _key_and_value, "metavar": leaf.metavar}
        else:
            common |= {"metavar": leaf.metavar} | ({"nargs": "+"} if list in kinds else {})
        if leaf.field.metadata.get("positional"):
            place.add_argument(**common | {"nargs": "*" if list in kinds else "?", "help": text})
        else:
            place.add_argument(*[short] if short else [], leaf.flag, **common, help=text)
        if former:
            place.add_argument(*former, **common, help=argparse.SUPPRESS)
            self.renamed |= dict.fromkeys(former, leaf.label)
            if bool in kinds:
                self.renamed |= {f"--no-{old[2:]}": f"--no-{leaf.flag[2:]}" for old in former}

    def error(self, message: str) -> NoReturn:
        """Raises InputError for what argparse itself cannot understand."""
        raise InputError(f"{message} (see `{self.prog} --help`)")

    def print_help(self, file: Any = None) -> None:
        say(self.format_help().removesuffix("\n"), file)


def given_values(arguments: argparse.Namespace, kind: type[Options]) -> Json:
    """Returns the options that were given on the command line, by name."""
    return {name: _given(value) for name, value in vars(arguments).items() if name in leaves(kind)}


def _given(value: object) -> object:
    """Marks typed words for `Leaf.convert`; pairs become a dict."""
    if isinstance(value, list):
        return dict(value) if value and isinstance(value[0], tuple) else [Word(item) for item in value]
    return Word(value) if isinstance(value, str) else value


def _with_dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _heading(kind: type[Options], section: str | None) -> str:
    field = kind.__dataclass_fields__[str(section)]
    return str(section) if "variants" in field.metadata else field.metadata["help"] or str(section)


def _help(leaf: Leaf, known: dict[str, Leaf]) -> str:
    """Returns the help text with the default, and the variants that the option is for."""
    text, default = leaf.field.metadata.get("help", ""), leaf.default
    if leaf.variants:
        choice = next(other for other in known.values() if other.section is None and other.field.name == leaf.section)
        if set(leaf.variants) < set(choice.choices):
            text += f" (for {choice.flag} {' or '.join(leaf.variants)})"
    if default not in (None, "", [], {}, False) and "(default" not in text:
        shown = " ".join(map(str, default)) if isinstance(default, list) else "on" if default is True else default
        text += f" (default: {shown})"
    return text.replace("%", "%%")


def _key_and_value(text: str) -> tuple[str, object]:
    """Splits `KEY=VALUE`; the value is YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"the value of {key} is not valid YAML: {value!r}") from error
