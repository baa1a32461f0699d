"""How the scripts beside this one read and write rows, and the records of runs."""

import csv
import json
from pathlib import Path
from typing import Any


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write dictionaries as CSV, columns in the order of their first appearance, floats to six significant digits."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _written(value) for name, value in row.items()})


def _written(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else value


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; none if there is no such file yet."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def replace_rows(path: Path, rows: list[dict[str, Any]], *key: str) -> None:
    """Write rows to the end of a file, in place of those that have the same values of `key` as one of them."""

    def values(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(_written(row.get(name))) for name in key)

    new = {values(row) for row in rows}
    write(path, [*(row for row in read(path) if values(row) not in new), *rows])


def records(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run of `cunet train`, in their order."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
