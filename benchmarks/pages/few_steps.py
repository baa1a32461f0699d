"""The tables of `docs/few-steps.md`: teachers and students, models from end to end, and elastic depth."""

from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from typing import Any

from pages.table import Spec, Table, rows

from continuous_unet.comparison.formatting import markdown_table


def few_steps() -> Iterator[dict[str, Any]]:
    """Rows with their FID as a share of the best one of the teacher at 50 evaluations, both above the floor.

    The number of samples changes an FID, so that those of equal numbers are compared.
    """
    found = rows("few-steps")
    setting = itemgetter("data", "num_images")
    order = list(dict.fromkeys(row["data"] for row in found))
    for row in sorted(found, key=lambda row: (order.index(row["data"]), -row["num_images"])):
        best = [r["fid"] - r["floor"] for r in found if setting(r) == setting(row) and r["evaluations"] == 50]
        yield {**row, "share": (row["fid"] - row["floor"]) / min(best) if best else None}


def searched() -> Iterator[dict[str, Any]]:
    """Yields the numbers of steps whose times were searched, with the FIDs of evenly spread and of searched times."""
    setting = itemgetter("evaluations", "num_images")
    spread = {setting(row): row for row in rows("few-steps", data="mnist", model="teacher")}
    for row in rows("few-steps", data="mnist", model="teacher-searched", sampler="own"):
        even = spread[setting(row)]
        yield {
            **row,
            "even": even["fid"] - even["floor"],
            "own": row["fid"] - row["floor"],
            "even_recall": even["recall"],
        }


def scale_of(row: dict[str, Any]) -> float:
    """Returns the guidance scale of a row, with which each step takes two evaluations unless it is 1."""
    return float(row.get("guidance") or 1)


OURS = ("ours", "stem")
"""The networks of ours: the packaged `digits`, and the same with a 2x2 stem."""
ENOUGH = 1.1
"""A number of evaluations counts as the best one if its FID above the floor is at most this multiple of the least."""


def end_to_end(distilled: bool) -> Iterator[dict[str, Any]]:
    """The U-Net at its best, and the fastest of ours with an FID that is as low; the other way round if none is.

    Students are those of one method, if both are distilled.
    """
    found = rows("end-to-end")
    for row in found:
        row["excess"], row["method"] = row["fid"] - row["floor"], row["model"].partition("-")[2]
    theirs = [row for row in found if row["network"] == "unet" and (row["distilled"] == "True") == distilled]
    methods = {row["method"] for row in (theirs if distilled else found)}
    ours = [row for row in found if row["network"] in OURS and row["method"] in methods]
    for first, second in ((theirs, ours), (ours, theirs)):
        least = min(row["excess"] for row in first)
        best = max((r for r in first if r["excess"] <= ENOUGH * least), key=lambda r: r["images_per_second"])
        equal = [row for row in second if row["excess"] <= ENOUGH * best["excess"]]
        if equal:
            fastest = max(equal, key=lambda row: row["images_per_second"])
            unet, own = (best, fastest) if first is theirs else (fastest, best)
            yield from ({**row, "times": row["images_per_second"] / unet["images_per_second"]} for row in (unet, own))
            return


END_TO_END: dict[str, Any] = {
    "model": "{model}",
    "sampler": "{sampler}",
    "evaluations": "{evaluations}",
    "FID above the floor": "{excess:.3g}",
    "GMACs of an image": lambda row: f"{row['macs'] * row['evaluations'] / 1e9:.2f}",
    "ms an evaluation, eager / compiled / ONNX": "{eager_ms:.2f} / {compiled_ms:.2f} / {onnx_ms:.2f}",
    "images/s": "{images_per_second:.1f}",
    "of the U-Net": "{times:.1f} ×",
}


def elastic(data: str) -> str:
    """Returns the loss of elastic models beside that of models trained at each number of solver steps alone."""
    found = {(r["kind"], r["seed"], r["solver_steps"], r["trained"]): float(r["loss"]) for r in rows(f"elastic-{data}")}
    lines = []
    for kind, seed, steps in dict.fromkeys(key[:3] for key in found):
        alone, both = (found.get((kind, seed, steps, trained)) for trained in ("alone", "elastic"))
        if alone is not None and both is not None:
            change = f"{both / alone - 1:+.1%}"
            lines.append([str(kind), str(seed), str(steps), f"{alone:.4f}", f"{both:.4f}", change])
    return markdown_table(["model", "seed", "solver steps", "trained alone", "elastic", "difference"], lines)


TABLES: dict[str, Table] = {
    "few-steps": Spec(
        few_steps,
        {
            "data": "{data}",
            "model": "{model}",
            "sampler": "{sampler}",
            "guidance": lambda row: f"{scale_of(row):g}",
            "steps": "{evaluations}",
            "samples": "{num_images}",
            "GMACs of an image": lambda row: (
                f"{row['macs'] * row['evaluations'] * (1 + (scale_of(row) != 1)) / 1e9:.2f}"
            ),
            "FID above the floor": lambda row: f"{row['fid'] - row['floor']:.3g}",
            "of the teacher's best at 50": lambda row: f"{row['share']:.2f}" if row["share"] else "–",
            "recall": lambda row: f"{row['recall']:.2f}" if "recall" in row and row["recall"] != "" else "–",
        },
        missing="distill.py measure",
    ),
    "searched-times": Spec(
        searched,
        {
            "steps": "{evaluations}",
            "FID above the floor, evenly spread": "{even:.3f}",
            "searched": "{own:.3f}",
            "recall, evenly spread": "{even_recall:.2f}",
            "recall, searched": "{recall:.2f}",
        },
    ),
    "end-to-end": Spec(partial(end_to_end, False), END_TO_END, missing="end_to_end.py"),
    "end-to-end-distilled": Spec(partial(end_to_end, True), END_TO_END, missing="end_to_end.py"),
}
for _name in ("digits", "mnist"):
    TABLES[f"elastic-{_name}"] = partial(elastic, _name)
