"""What a run leaves for people: the loss curve and a page."""

from pathlib import Path
from typing import Any

from continuous_unet.base.files import replace_file, replace_text


def plot_losses(records: list[dict[str, Any]], path: Path) -> bool:
    """Draw training and validation loss against steps; False if matplotlib is missing."""
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
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    if axes.lines:
        axes.legend()
    figure.tight_layout()
    try:
        replace_file(path, lambda aside: figure.savefig(aside, dpi=120, format="png"))
    finally:
        plt.close(figure)
    return True


def write_report(path: Path, facts: dict[str, Any]) -> None:
    """Write a page in Markdown that says what was trained on what, how long it took, and how to use it."""
    lines = [
        f"# {facts['preset']} on {facts['data']}",
        "",
        "| | |",
        "| --- | --- |",
        f"| data | {facts['num_images']:,} images, {facts['image_size']}x{facts['image_size']}, "
        f"{facts['channels']} channel(s) |",
        f"| model | {facts['model']}, {facts['num_parameters']:,} parameters |",
        f"| steps | {facts['step']:,} ({facts['images_seen']:,} images seen) |",
        f"| time | {_duration(facts['seconds'])} |",
        f"| speed | {facts['images_per_second']:.1f} images per second on {facts['device']} |",
        f"| training loss | {facts['loss']:.4f} |",
    ]
    if facts.get("quantization_aware"):
        lines.append("| precision | rounded as in int8, in losses and samples too |")
    if facts.get("validation_loss") is not None:
        lines.append(f"| validation loss | {facts['validation_loss']:.4f} (fixed noise, averaged weights) |")
    lines += ["", f"![samples]({facts['samples']})", ""]
    if facts["has_plot"]:
        lines += ["![loss](loss.png)", ""]
    lines += [
        "Use it, or train on:",
        "",
        "```bash",
        facts["usage"],
        f"cunet train --output {facts['run']} --resume --steps {2 * facts['step']}",
        "```",
        "",
    ]
    replace_text(path, "\n".join(lines))


def _duration(seconds: float) -> str:
    """Two units are enough: `2 h 5 min`, `4 min 3 s`, `12 s`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute} min" if hours else f"{minute} min {second} s" if minute else f"{second} s"
