"""What a run leaves for people: the loss curve and a page."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continuous_unet.base.files import replace_file, replace_text
from continuous_unet.data import DatasetReport
from continuous_unet.training.config import TrainConfig


@dataclass(frozen=True)
class Report:
    """What the page of a run says."""

    config: TrainConfig
    data: DatasetReport
    model: str
    """Name of the model's class."""
    num_parameters: int
    step: int
    images_seen: int
    seconds: float
    images_per_second: float
    device: str
    loss: float
    validation_loss: float | None
    picture: str
    """Path of the last picture, from the run's folder."""
    usage: str
    """Command that uses the model."""

    def to_text(self, run: str, has_plot: bool) -> str:
        """Returns the page, in Markdown, of a run in the folder `run`."""
        origin = self.config.model.start_from or self.config.model.preset
        rows = {
            "data": f"{self.data.num_images:,} images, {size_text(self.data.image_size)} pixels, "
            f"{self.data.channels} channel(s)",
            "model": f"{self.model}, {self.num_parameters:,} parameters",
            "training": f"{self.step:,} training steps, {self.images_seen:,} images seen",
            "time": _duration(self.seconds),
            "speed": f"{self.images_per_second:.1f} images per second on {self.device}",
            "training loss": f"{self.loss:.4f}",
        }
        if self.config.model.quantization_aware:
            rows["precision"] = "rounded as in int8, also for losses and samples"
        if self.validation_loss is not None:
            rows["validation loss"] = f"{self.validation_loss:.4f} (averaged weights; the same noise each time)"
        plot = ["![loss](loss.png)", ""] if has_plot else []
        return "\n".join(
            [f"# {origin} on {self.config.data.source}", "", "| | |", "| --- | --- |"]
            + [f"| {name} | {text} |" for name, text in rows.items()]
            + ["", f"![samples]({self.picture})", "", *plot, "To use the model, or to train it further:", "", "```bash"]
            + [self.usage, f"cunet train --output {run} --resume --steps {2 * self.step}", "```", ""]
        )

    def write(self, folder: Path, records: Iterable[dict[str, Any]]) -> None:
        """Writes `report.md` and, if matplotlib is installed, `loss.png`."""
        has_plot = plot_losses(list(records), folder / "loss.png")
        replace_text(folder / "report.md", self.to_text(folder.as_posix(), has_plot))


def plot_losses(records: list[dict[str, Any]], path: Path) -> bool:
    """Draws training and validation loss against training steps; returns False if matplotlib is missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return False
    figure, axes = plt.subplots(figsize=(6.4, 4))
    for key, label, style in (("loss", "training", "-"), ("validation_loss", "validation (averaged weights)", "o-")):
        points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
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


def _duration(seconds: float) -> str:
    """Returns the two largest units: `2 h 5 min`, `4 min 3 s`, `12 s`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute} min" if hours else f"{minute} min {second} s" if minute else f"{second} s"
