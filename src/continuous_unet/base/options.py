"""Options of library calls and verbs: dataclasses whose fields carry their own help, checks and names.

One dataclass describes the options of a call. Its checks, its YAML file, the arguments of the command line and
their `--help` are all made from it:

    @dataclass
    class ResizeOptions(Options):
        image: str = option("", "image file to enlarge", positional=True, required=True, metavar="FILE")
        factor: int = option(2, "upscaling factor", at_least=1, at_most=4)

A field may also be a `section`, which is another options class, or a choice of `variants`, which are several of them.
On the command line the fields of sections are flat (`--batch-size`), so their names are unique over all sections.
In YAML they are nested, and flat files are accepted too. Imports no torch: `cunet --help` reads this.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import replace_text
from continuous_unet.base.leaves import Leaf, Word, nearest
from continuous_unet.base.results import Json

if TYPE_CHECKING:
    from typing_extensions import Self

Kind = TypeVar("Kind", bound="Options")
Values = Mapping[str, Any]
Table = Mapping[str, "type[Options]"]


def option(
    default: Any,
    text: str,
    *,
    positional: bool = False,
    short: str | None = None,
    old: tuple[str, ...] = (),
    metavar: str | None = None,
    flat: str | None = None,
    required: bool = False,
    choices: Iterable[object] | Callable[[], Iterable[object]] | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    between: tuple[float, float] | None = None,
    **marks: object,
) -> Any:
    """Declares a field of an options class.

    Args:
        default: its default value. A list or dict is copied for each instance.
        text: its help text, which stands alone: what it does, its unit, and what happens if it is left out.
        positional: whether the command line takes it without a flag. A list takes all remaining words.
        short: a short flag, such as `-o`.
        old: former flags, such as `--main-sampler`, which keep working with a note, also as keys of files.
        metavar: the placeholder for the value in `--help`, such as FILE; derived from the type if None.
        flat: its name on the command line and in flat files, where it differs from the name of the field.
        required: whether an empty value is refused.
        choices: the allowed values, or a function that returns them, where a `Literal` cannot list them.
        at_least: smallest allowed number, also of every entry of a list. None is always allowed where the type has it.
        at_most: largest allowed number.
        above: a number that the value must exceed.
        below: a number that the value must stay under.
        between: smallest and largest allowed number.
        marks: further entries of the field's `metadata`, such as `may_change=True`.
    """
    if between is not None:
        at_least, at_most = between
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    given = {relation: limit for relation, limit in bounds.items() if limit is not None}
    metadata = {"help": text, "positional": positional, "short": short, "old": old, "metavar": metavar, "flat": flat}
    metadata = {**metadata, "required": required, "choices": choices, "bounds": given, **marks}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: "type[Options]", text: str = "") -> Any:
    """Declares a field that is an options class of its own; `text` is the heading of its options in `--help`."""
    return field(default_factory=kind, metadata={"help": text})


def variants(
    table: Table | Callable[[], Table], default: str, text: str, old: Mapping[str, str] | None = None, **marks: object
) -> Any:
    """Declares a field that holds one of several options classes, chosen by name: `--task denoise`.

    In YAML it is a mapping with the key `name`: `task: {name: denoise, sigma: "0:55"}`. An option of another variant
    is refused by name.

    Args:
        table: options class by name, each class under one name; or a function that returns it.
        default: name of the variant if none is chosen.
        text: help text of the choice.
        old: present name by former name, which keeps working with a note.
        marks: further entries of the field's `metadata`.
    """

    def read() -> Table:
        return table() if callable(table) else table

    metadata = {"help": text, "variants": read, "variant": default, "renamed": old or {}, "choices": read, **marks}
    return field(default_factory=lambda: read()[default](), metadata=metadata)


def own_leaves(kind: "type[Options]") -> tuple[Leaf, ...]:
    """Returns the fields of one options class by themselves; a section counts as one field."""
    hints = typing.get_type_hints(kind)
    return tuple(Leaf(f.metadata.get("flat") or f.name, f, hints[f.name]) for f in dataclasses.fields(kind))


def _classes(leaf: Leaf) -> Table:
    """Returns the options classes of a section or of variants, by name; empty for a plain value."""
    if "variants" in leaf.field.metadata:
        return typing.cast(Table, leaf.field.metadata["variants"]())
    plain = not (isinstance(leaf.annotation, type) and issubclass(leaf.annotation, Options))
    return {} if plain else {"": leaf.annotation}


def leaves(kind: "type[Options]") -> dict[str, Leaf]:
    """Returns every value that can be set in an options class, by its name on the command line.

    Raises:
        TypeError: if two sections use the same name.
    """
    found: dict[str, Leaf] = {}
    for leaf in own_leaves(kind):
        inner: dict[str, Leaf] = {}
        if "variants" in leaf.field.metadata or not _classes(leaf):
            inner[leaf.name] = leaf
        for variant, options in _classes(leaf).items():
            for part in own_leaves(options):
                sharing = inner[part.name].variants if part.name in inner else ()
                first = inner.get(part.name, part)
                names = (*sharing, variant) if variant else ()
                inner[part.name] = dataclasses.replace(first, section=leaf.field.name, variants=names)
        twice = set(found) & set(inner)
        if twice:
            raise TypeError(f"{kind.__name__} has two options of the name {twice.pop()}")
        found |= inner
    return found


def flatten(
    kind: "type[Options]", values: Values, *, where: str = "the options", notes: list[str] | None = None
) -> Json:
    """Returns nested or flat values as flat ones, by present name.

    Args:
        kind: the options class.
        values: the content of a YAML file, or of `Options.to_dict`.
        where: the name of the source of the values in errors and notes.
        notes: receives a line for former names and forms.

    Raises:
        InputError: for an unknown key, with the nearest one.
    """
    known = leaves(kind)
    former = {old.lstrip("-").replace("-", "_"): leaf.name for leaf in known.values() for old in _old(leaf)}
    sections = {leaf.field.name: leaf for leaf in own_leaves(kind) if _classes(leaf)}
    by_field = {
        leaf.field.name: leaf.name for leaf in known.values() if leaf.section is None
    }  # as `to_dict` writes them
    found: Json = {}
    was_flat = False
    for key, value in values.items():
        if key not in known and key in by_field:
            key = by_field[key]
        if key in sections and isinstance(value, Mapping):
            inner = {leaf.field.name: leaf.name for leaf in known.values() if leaf.section == key}
            if "variants" in sections[key].field.metadata:
                inner["name"] = sections[key].name
            for name, content in value.items():
                if name not in inner:
                    raise InputError(f"{where} has the unknown option {key}.{name}{nearest(str(name), inner)}")
                found[inner[name]] = content
        elif key in known or key in former:
            name = key if key in known else former[key]
            was_flat |= known[name].section is not None
            if name != key and notes is not None:
                notes.append(f"{where}: {key} is now called {name}")
            found[name] = value
        elif key in sections:
            raise InputError(f"{where}: {key} must be a mapping of options, got {value!r}")
        else:
            raise InputError(f"{where} has the unknown option {key!r}{nearest(str(key), [*sections, *known])}")
    if was_flat and notes is not None:
        notes.append(f"{where} lists options without their sections; --print-config shows the present form")
    return found


def _old(leaf: Leaf) -> tuple[str, ...]:
    return tuple(leaf.field.metadata.get("old", ()))


def build(kind: type[Kind], *layers: Values, given: Values | None = None, notes: list[str] | None = None) -> Kind:
    """Makes options from layers of values, of which later ones take precedence; dicts are merged.

    Args:
        kind: the options class.
        layers: values, nested or flat.
        given: values of the command line, flat; they take precedence, and none of them may be for another variant.
        notes: receives a line for each former name.

    Raises:
        InputError: for an unknown option, a value of the wrong type, or an option of a variant that was not chosen.
    """
    given = given or {}
    values: Json = {}
    for layer in (*(flatten(kind, layer) for layer in layers), given):
        for name, value in layer.items():
            both = isinstance(value, dict) and isinstance(values.get(name), dict)
            values[name] = {**values[name], **value} if both else value
    arguments: Json = {}
    for leaf in own_leaves(kind):
        classes = _classes(leaf)
        if not classes:
            if leaf.name in values:
                arguments[leaf.field.name] = leaf.convert(values[leaf.name])
            continue
        chosen = ""
        if "variants" in leaf.field.metadata:
            said, renamed = str(values.get(leaf.name, leaf.default)), leaf.field.metadata["renamed"]
            if said in renamed and notes is not None:
                notes.append(f"{leaf.flag} {said} is now called {renamed[said]}")
            chosen = leaf.convert(Word(renamed.get(said, said)))
            _refuse_other_variants(kind, leaf, chosen, values, given)
        parts = [part for part in own_leaves(classes[chosen]) if part.name in values]
        inner = {part.field.name: part.convert(values[part.name]) for part in parts}
        arguments[leaf.field.name] = classes[chosen](**inner)
    return kind(**arguments)


def _refuse_other_variants(kind: "type[Options]", choice: Leaf, chosen: str, values: Values, given: Values) -> None:
    """Refuses options of other variants, unless a file lists them with their default, as those of version 0.1 do."""
    for leaf in leaves(kind).values():
        other = leaf.section == choice.field.name and leaf.name in values and chosen not in leaf.variants
        if other and (leaf.name in given or leaf.convert(values[leaf.name]) != leaf.default):
            names = " and ".join(f"{choice.flag} {name}" for name in leaf.variants)
            raise InputError(f"{leaf.flag} is for {names}, but this is {choice.flag} {chosen}; leave it out")


def read_layer(kind: "type[Options]", path: str | Path, notes: list[str] | None = None) -> Json:
    """Reads a YAML file that may name any option, for `build`.

    Raises:
        InputError: if it cannot be read, or has an unknown key.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"the configuration {path} does not exist") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: undecodable bytes, dates …
        raise InputError(f"the configuration {path} cannot be read: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"the configuration {path} must be a mapping of options, with lines like `steps: 1000`")
    return flatten(kind, content, where=f"the configuration {path}", notes=notes)


class Options:
    """The base of options classes, which are dataclasses with fields made by `option`, `section` and `variants`."""

    __dataclass_fields__: ClassVar[Json]

    def validate(self) -> "Self":
        """Checks every field by itself. A subclass adds checks of several fields together, after `super().validate()`.

        Raises:
            InputError: naming the first option that is wrong, what was expected, and what to do.
        """
        for leaf in own_leaves(type(self)):
            value, classes = getattr(self, leaf.field.name), _classes(leaf)
            if not classes:
                leaf.check(value)
            elif type(value) in classes.values():
                value.validate()
            else:
                names = " or ".join(options.__name__ for options in classes.values())
                raise InputError(f"{leaf.field.name} must be {names}, got {value!r}")
        return self

    @classmethod
    def from_dict(cls, values: Values) -> "Self":
        """Makes options from nested or flat values, such as those of `to_dict`."""
        return build(cls, values)

    @classmethod
    def load(cls, path: str | Path, notes: list[str] | None = None) -> "Self":
        """Reads YAML.

        Raises:
            InputError: for a file that cannot be read, an unknown key, or a value of the wrong type.
        """
        return build(cls, read_layer(cls, path, notes), notes=notes)

    def save(self, path: str | Path) -> None:
        """Writes YAML; at every moment the file is either whole or the old one."""
        replace_text(path, to_yaml(self))

    def to_dict(self) -> Json:
        """Returns the values as YAML nests them (lists for tuples), in the order of the fields."""
        values: Json = {}
        for leaf in own_leaves(type(self)):
            value, classes = getattr(self, leaf.field.name), _classes(leaf)
            if not classes:
                values[leaf.field.name] = _plain(value)
                continue
            (name,) = (name for name, options in classes.items() if options is type(value))
            values[leaf.field.name] = ({"name": name} if name else {}) | value.to_dict()
        return values

    def flat(self) -> Json:
        """Returns the values by their name on the command line."""
        return flatten(type(self), self.to_dict())

    def replaced(self, **values: object) -> "Self":
        """Returns a copy with other values, named as on the command line."""
        return build(type(self), {**self.flat(), **values})


def to_yaml(options: Options) -> str:
    """Returns options as YAML."""
    return yaml.safe_dump(options.to_dict(), sort_keys=False, allow_unicode=True)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
