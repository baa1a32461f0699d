"""What the tables of the pages are made of: rows of `benchmarks/results`, and columns that show something of a row."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from continuous_unet.comparison.formatting import markdown_table, scaled
from continuous_unet.comparison.rows import read_csv

RESULTS = Path(__file__).parents[1] / "results"
Table = Callable[[], str]
"""Makes a table in Markdown."""


class Number(float):
    """A number that is shown as it stands in the file, unless a format says otherwise."""

    def __new__(cls, text: str) -> "Number":
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        return format(float(self), spec) if spec else self.text


def number(text: str) -> Any:
    try:
        return Number(text)
    except ValueError:
        return text


def rows(name: str, **wanted: str) -> list[dict[str, Any]]:
    """Returns the rows of a CSV file, numbers as such; only those with the wanted values."""
    found = [row for row in read_csv(RESULTS / f"{name}.csv") if all(row[k] == v for k, v in wanted.items())]
    return [{key: number(text) for key, text in row.items()} for row in found]


@dataclass(frozen=True)
class Spec:
    """A table: where its rows come from, and for each column its heading and what it shows of a row."""

    rows: Callable[[], Iterable[Any]]
    columns: dict[str, str | Callable[[Any], object]]
    """By heading: a format of the row's values, such as `{ms:.2f} ms`, or a function of the row."""
    missing: str = ""
    """The command that measures the rows, if there may be none yet."""

    def __call__(self) -> str:
        try:
            body = list(self.rows())
        except FileNotFoundError:
            body = []
        if not body and self.missing:
            return f"*Not measured yet: `python benchmarks/{self.missing}`.*"
        show = [partial(str.format_map, c) if isinstance(c, str) else c for c in self.columns.values()]
        return markdown_table(list(self.columns), [[cell(row) for cell in show] for row in body])


def ratio(row: dict[str, Any]) -> str:
    return "{ratio:.2f} ({ratio_p25:.2f} to {ratio_p75:.2f})".format_map(row)


def millions(key: str, digits: int) -> Callable[[dict[str, Any]], str]:
    return lambda row: scaled(row[key], "M", digits)
