"""The tables of `docs/training.md`: two trainings."""

import json
from collections.abc import Iterator
from typing import Any

from pages.table import RESULTS, Spec, Table
from rows import records


def runs() -> Iterator[dict[str, Any]]:
    for name in ("digits-tiny", "mnist-small"):
        facts = json.loads((RESULTS / name / "run.json").read_text(encoding="utf-8"))
        found = records(RESULTS / name)
        speeds = sorted(r["images_per_second"] for r in found if "images_per_second" in r)
        yield {
            **facts["data"],
            "name": name.split("-")[0],
            "num_parameters": facts["num_parameters"],
            "images_seen": [r for r in found if "loss" in r][-1]["images_seen"],
            "speed": speeds[len(speeds) // 2],
            "validation": [r["validation_loss"] for r in found if "validation_loss" in r][-1],
        }


TABLES: dict[str, Table] = {
    "runs": Spec(
        runs,
        {
            "run": "`examples/{name}.yaml`",
            "data": "{num_images:,} images, {image_size}x{image_size}",
            "parameters": "{num_parameters:,}",
            "images seen": "{images_seen:,}",
            "images/s, 2 CPU cores": "{speed:.0f}",
            "validation loss (v)": "{validation:.4f}",
        },
    ),
}
