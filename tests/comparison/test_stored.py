"""The rows of the comparisons in benchmarks/results give the verdicts that are kept with them."""

from dataclasses import asdict
from pathlib import Path

import pytest

from continuous_unet.comparison.results import SavedMemory, SolverStepsLosses, from_json
from continuous_unet.comparison.rows import SideRow, read_csv
from continuous_unet.comparison.verdicts import make_verdicts

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def number(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text or None


def read(kind, path):
    return [from_json(kind, {key: number(text) for key, text in row.items()}) for row in read_csv(path)]


@pytest.mark.parametrize(
    ("name", "size"), [("compare-mnist", 32), ("compare-scenes", 32), ("compare-paper", 32), ("compare-costs64", 64)]
)
def test_stored_rows_give_the_stored_verdicts(name, size):
    folder = RESULTS / name
    rows = [SideRow.from_cells(cells) for cells in read_csv(folder / "results.csv")]
    steps = {}
    if (folder / "solver-steps.csv").is_file():
        for row in read_csv(folder / "solver-steps.csv"):
            losses = from_json(SolverStepsLosses, {key: number(text) for key, text in row.items()})
            steps.setdefault(row["side"], []).append(losses)
    verdicts = make_verdicts(rows, size, read(SavedMemory, folder / "memory.csv"), steps)
    assert [asdict(verdict) for verdict in verdicts] == read_csv(folder / "verdicts.csv")
