"""The tables of `docs/video.md`: models of clips."""

from collections.abc import Iterator
from typing import Any

from pages.table import Spec, Table, millions, rows

from continuous_unet.comparison.formatting import scaled


def video() -> Iterator[dict[str, Any]]:
    """A row for each side: the means over the seeds."""
    names = {"ours": "ours", "control": "the weight-tied control", "discrete": "discrete 3-D U-Net"}
    found = rows("video")
    for side in dict.fromkeys(row["side"] for row in found):
        same = [row for row in found if row["side"] == side]
        keys = ("parameters", "macs", "training_steps", "validation_loss", "frame_fid", "frame_fid_of_real")
        means = {key: sum(row[key] for row in same) / len(same) for key in keys}
        yield {"side": names[side], "runs": len(same), **means}


TABLES: dict[str, Table] = {
    "video": Spec(
        video,
        {
            "side": "{side}",
            "parameters": millions("parameters", 2),
            "MACs": millions("macs", 1),
            "runs": "{runs}",
            "training steps": "{training_steps:,.0f}",
            "validation loss": "{validation_loss:.4f}",
            "FID of frames": "{frame_fid:.3f}",
            "of real ones": "{frame_fid_of_real:.3f}",
        },
        missing="video.py compare --folder runs/video",
    ),
    "video-memory": Spec(
        lambda: rows("video-memory"),
        {
            "solver steps": "{solver_steps}",
            "gradient mode": "`{gradient}`",
            "saved for the backward pass": lambda row: scaled(row["saved_for_backward_bytes"], "MiB", 1),
            "peak": lambda row: scaled(row["peak_bytes"], "MiB", 1),
        },
        missing="video.py memory",
    ),
}
