"""The tables of `docs/planning.md`: planners."""

from collections.abc import Iterator
from typing import Any

from pages.table import Spec, Table, millions, rows


def planning() -> Iterator[dict[str, Any]]:
    """A row for each side and warm start: the means over the seeds, with the learning rate that is best for it."""
    names = {"ours": "ours", "large": "Diffusion Policy's U-Net", "cut": "that U-Net, cut to our cost"}
    found = rows("planning")
    for side, warm in dict.fromkeys((row["side"], row["warm_start"]) for row in found):
        same = [row for row in found if (row["side"], row["warm_start"]) == (side, warm)]
        keys = ("success", "time_steps", "plan_ms", "plans_per_second", "parameters", "learning_rate")
        by_rate = {
            row["learning_rate"]: [one for one in same if one["learning_rate"] == row["learning_rate"]] for row in same
        }
        means = [
            {key: sum(row[key] for row in runs) / len(runs) for key in keys} | {"runs": len(runs)}
            for runs in by_rate.values()
        ]
        best = max(means, key=lambda mean: (mean["success"], -mean["time_steps"]))
        yield {"side": names[side] + (f", warm start {warm}" if warm else ""), "rates": len(means), **best}


TABLES: dict[str, Table] = {
    "planning": Spec(
        planning,
        {
            "side": "{side}",
            "parameters": millions("parameters", 2),
            "learning rate": "{learning_rate:g} (of {rates})",
            "runs": "{runs}",
            "episodes that reach the target": "{success:.1%}",
            "time steps until then": "{time_steps:.0f}",
            "CPU time of a plan": "{plan_ms:.2f} ms",
            "plans per second": "{plans_per_second:.0f}",
        },
        missing="planning.py measure",
    ),
}
