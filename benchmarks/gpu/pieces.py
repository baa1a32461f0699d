"""What every piece of the plan is given, and how it leaves its rows."""

import csv
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Piece:
    """One piece of the plan, at work."""

    name: str
    options: dict[str, Any]
    """What the plan says of it."""
    folder: Path
    """Where everything goes that is kept: rows, pictures, weights."""
    scratch: Path
    """Where large files go, which need not be kept."""
    data: str
    """The training images."""
    device: torch.device
    deadline: float
    """When the piece has to end, by `time.monotonic`."""

    def left(self) -> float:
        """Returns the seconds that are left."""
        return self.deadline - time.monotonic()

    def rows(self, name: str = "rows") -> list[dict[str, str]]:
        """Returns the rows that were written, perhaps on another machine."""
        path = self.folder / f"{name}.csv"
        return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []

    def write(self, row: dict[str, Any], name: str = "rows") -> None:
        """Adds a row to a file at once, with new columns if need be; a cut in between leaves the old file."""
        found: list[dict[str, Any]] = [*self.rows(name), row]
        columns = list(dict.fromkeys(key for each in found for key in each))
        path = self.folder / f"{name}.csv"
        aside = path.with_suffix(".part")
        with aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in r.items()} for r in found)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        print(self.name, {k: v for k, v in row.items() if v not in ("", None)}, flush=True)

    def has(self, **key: Any) -> bool:
        """Returns whether there is a row with these values."""
        return any(all(row.get(k) == str(v) for k, v in key.items()) for row in self.rows())


SIDES: dict[str, dict[str, Any]] = {
    "ours": {"preset": "base"},
    "control": {"preset": "base", "model_options": {"block_type": "residual", "gradient": "backprop"}},
    "discrete": {"preset": "ddpm"},
    "discrete-half": {"preset": "ddpm", "model_options": {"block_out_channels": [32, 64, 128, 256]}},
}
"""Sides by name: ours, the weight-tied control, `UNet2DModel` at its usual size, and at half of its widths."""


def side(named: str | dict[str, Any]) -> dict[str, Any]:
    """Returns `preset` and `model_options` of a side, which the plan names or describes."""
    return {"model_options": {}, **(SIDES[named] if isinstance(named, str) else named)}
