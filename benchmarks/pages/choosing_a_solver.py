"""The tables of `docs/choosing-a-solver.md`: methods and gradient modes, beside other libraries."""

from collections.abc import Iterator
from typing import Any

from pages.table import Spec, Table, rows

from continuous_unet.comparison.formatting import markdown_table


def gradients() -> Iterator[dict[str, Any]]:
    training = rows("solvers-training")
    for row in training:
        if row["num_steps"] == 4 and row["t1"] == 4:
            same = ("field", "method", "gradient")
            (long,) = (r for r in training if r["num_steps"] == 64 and all(r[k] == row[k] for k in same))
            yield {**row, "long": long["saved_bytes"], "other": row["library"] == "torchdiffeq"}


def accuracy() -> str:
    everything = rows("solvers-accuracy")
    everything = [row for row in everything if row["problem"] == everything[0]["problem"]]
    body: list[list[Any]] = []
    for method in dict.fromkeys(row["method"] for row in everything):
        own = [row for row in everything if row["method"] == method]
        if "dopri5" in method:
            for row in own:
                error = f"{row['error']:.1e} at {row['nfe']} evaluations"
                body.append([f"{method} ({row['library']})", "", "", "", error])
        else:
            errors = {int(row["nfe"]): f"{row['error']:.1e}" for row in own}
            body.append([f"`{method}`", *(errors[n] for n in (4, 8, 16, 32))])
    return markdown_table(["method", "4 evaluations", "8", "16", "32"], body)


TABLES: dict[str, Table] = {
    "accuracy": accuracy,
    "gradients": Spec(
        gradients,
        {
            "method": "`{method}`",
            "gradient": lambda row: f"`{row['gradient']}`" + " (torchdiffeq)" * row["other"],
            "evaluations, 4 steps": "{nfe}",
            "gradient error": lambda row: f"{row['gradient_error']:.0e}" if row["gradient_error"] else "exact",
            "saved, 4 steps": lambda row: f"{row['saved_bytes'] / 1e6:.1f} MB",
            "saved, 64 steps": lambda row: f"{row['long'] / 1e6:,.1f} MB",
            "time / its backprop": "{time_to_backprop:.2f}",
        },
    ),
    "targets": Spec(
        lambda: rows("solvers-targets"),
        {
            "target": "{target}",
            "measured": "{measured:.3g}",
            "at most": "{limit:g}",
            "": lambda row: "met" if row["met"] == "True" else "**missed**",
        },
    ),
}
