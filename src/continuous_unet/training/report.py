"""The result of a run, and what it writes for people: a page and the loss curve."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from continuous_unet.base.files import replace_file, replace_text
from continuous_unet.base.results import CallResult, Json

if TYPE_CHECKING:
    from continuous_unet.training.outputs import TrainingRun


@dataclass
class TrainResult(CallResult):
    """The result of `train`."""

    run: str
    steps: int
    images_seen: int
    loss: float
    """Mean training loss between the last two records."""
    validation_loss: float | None
    validation_psnr: float | None
    """PSNR in dB of the images that the model gives, if its task restores images or encodes them."""
    degraded_loss: float | None
    """Mean squared error of the images that it was given to restore, if its task restores images."""
    degraded_psnr: float | None
    """PSNR in dB of the degraded images."""
    seconds: float
    """Duration of this call; time before a resumption is not included."""
    images_per_second: float
    num_parameters: int
    stopped_by: int | None
    """Number of the signal that ended the run early, if one did."""

    def to_dict(self) -> Json:
        return super().to_dict() if _is_main() else {}

    def notes(self) -> list[str]:
        line = (
            f"{self.run}: {self.steps:,} training steps, loss {self.loss:.4f}, {duration(self.seconds)}, "
            f"{self.images_per_second:.0f} images/s"
        )
        return [line, *self.warnings()] if _is_main() else []

    def warnings(self) -> list[str]:
        """Returns a line if a model that restores images made the held-out ones no better, by mean squared error."""
        after, before = self.validation_loss, self.degraded_loss
        if after is None or before is None or after < before or self.stopped_by is not None:
            return []
        return [
            f"warning: the restored validation images (mean squared error {after:.3g}) are no better than the degraded "
            f"ones ({before:.3g}); train for more --steps, or start a new run with a smaller --learning-rate"
        ]

    def to_text(self) -> str:
        return ""


def _is_main() -> bool:
    """Returns whether this process prints for all processes of the run."""
    return int(os.environ.get("RANK", "0")) == 0


def write_report(run: "TrainingRun", result: TrainResult) -> None:
    """Writes the page of a run, in Markdown, and the loss curve if matplotlib is installed."""
    config, data = run.config, run.data.report
    rows = {
        "data": data.description(),
        "training": f"{result.steps:,} training steps, {result.images_seen:,} images seen",
        "speed": f"{result.images_per_second:.1f} images per second",
        "training loss": f"{result.loss:.4f}",
        "model": f"{type(run.learner.model).__name__}, {result.num_parameters:,} parameters",
        "device": str(run.accelerator.device),
        "time": duration(run.seconds()),
    }
    if config.model.quantization_aware:
        rows["precision"] = "rounded as in int8, also for losses and samples"
    if result.validation_loss is not None:
        rows["validation loss"] = f"{result.validation_loss:.4f} (averaged weights; the same noise each time)"
    if result.validation_psnr is not None:
        before = "" if result.degraded_psnr is None else f" (degraded images: {result.degraded_psnr:.2f} dB)"
        rows["validation PSNR"] = f"{result.validation_psnr:.2f} dB{before}"
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    plot = "\n![loss](loss.png)\n" if plot_losses(run.folder.records(), run.folder.path / "loss.png") else ""
    text = f"""# {config.model.start_from or run.task.model_name(config.model.preset)} on {config.data.source}

| | |
| --- | --- |
{table}

![samples](samples/{run.folder.picture(result.steps).name})
{plot}
To use the model, or to train it further:

```bash
{run.task.usage(result.run)}
cunet train --output {result.run} --resume --steps {2 * result.steps}
```
"""
    replace_text(run.folder.report, text)


def plot_losses(records: Iterable[Json], path: Path) -> bool:
    """Draws training and validation loss against training steps; returns False if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    kept = list(records)
    figure = Figure(figsize=(6.4, 4), layout="tight")
    axes = figure.subplots()
    for key, label, style in (("loss", "training", "-"), ("validation_loss", "validation (averaged weights)", "o-")):
        points = [(r["step"], r[key]) for r in kept if r.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=3, linewidth=1)
    axes.set(xlabel="training step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    if axes.lines:
        axes.legend()
    replace_file(path, lambda aside: figure.savefig(aside, dpi=120, format="png"))
    return True


def duration(seconds: float) -> str:
    """Returns the two largest units: `2 h 5 min`, `4 min 3 s`, `12 s`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute} min" if hours else f"{minute} min {second} s" if minute else f"{second} s"
