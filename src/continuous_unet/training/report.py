"""What a run comes to, and what it leaves for people: the loss curve and a page."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continuous_unet.base.files import replace_file
from continuous_unet.base.results import CallResult
from continuous_unet.data import DatasetReport
from continuous_unet.training.config import TrainConfig


@dataclass
class TrainResult(CallResult):
    """What a run came to."""

    run: str
    steps: int
    images_seen: int
    loss: float
    """Mean training loss between the last two records."""
    validation_loss: float | None
    seconds: float
    """Duration of this call, without what was done before a resumption."""
    images_per_second: float
    num_parameters: int
    stopped_by: int | None
    """Number of the signal that ended the run early, if one did."""

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() if _is_main() else {}

    def notes(self) -> list[str]:
        line = (
            f"{self.run}: {self.steps:,} training steps, loss {self.loss:.4f}, {duration(self.seconds)}, "
            f"{self.images_per_second:.0f} images/s"
        )
        return [line] if _is_main() else []

    def to_text(self) -> str:
        return ""


def _is_main() -> bool:
    """Whether this is the one of several processes that speaks for all."""
    return int(os.environ.get("RANK", "0")) == 0


def report_text(
    config: TrainConfig,
    data: DatasetReport,
    result: TrainResult,
    *,
    picture: str,
    has_plot: bool,
    usage: str,
    **rows: str,
) -> str:
    """Returns the page of a run, in Markdown.

    Args:
        config: of the run.
        data: what it was trained on.
        result: what it came to.
        picture: path of the last picture.
        has_plot: whether `loss.png` is there.
        usage: command that uses the model.
        rows: further rows of the table.
    """
    height, width = data.size
    rows = {
        "data": f"{data.num_images:,} images of {width}x{height} pixels, {data.channels} channel(s)",
        "training": f"{result.steps:,} training steps, {result.images_seen:,} images seen",
        "speed": f"{result.images_per_second:.1f} images per second",
        "training loss": f"{result.loss:.4f}",
        **rows,
    }
    if config.model.quantization_aware:
        rows["precision"] = "rounded as in int8, also for losses and samples"
    if result.validation_loss is not None:
        rows["validation loss"] = f"{result.validation_loss:.4f} (averaged weights; the same noise each time)"
    plot = "\n![loss](loss.png)\n" if has_plot else ""
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    return f"""# {config.model.start_from or config.model.preset} on {config.data.source}

| | |
| --- | --- |
{table}

![samples]({picture})
{plot}
To use the model, or to train it further:

```bash
{usage}
cunet train --output {result.run} --resume --steps {2 * result.steps}
```
"""


def plot_losses(records: Iterable[dict[str, Any]], path: Path) -> bool:
    """Draws training and validation loss against training steps; returns False if matplotlib is missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return False
    kept = list(records)
    figure, axes = plt.subplots(figsize=(6.4, 4))
    for key, label, style in (("loss", "training", "-"), ("validation_loss", "validation (averaged weights)", "o-")):
        points = [(r["step"], r[key]) for r in kept if r.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=3, linewidth=1)
    axes.set(xlabel="training step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    if axes.lines:
        axes.legend()
    figure.tight_layout()
    try:
        replace_file(path, lambda aside: figure.savefig(aside, dpi=120, format="png"))
    finally:
        plt.close(figure)
    return True


def duration(seconds: float) -> str:
    """Returns the two largest units: `2 h 5 min`, `4 min 3 s`, `12 s`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute} min" if hours else f"{minute} min {second} s" if minute else f"{second} s"
