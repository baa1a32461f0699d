"""The plots of a comparison."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from continuous_unet.base.packages import import_extra
from continuous_unet.comparison.config import CURVE_SCHEDULERS
from continuous_unet.comparison.formatting import SCHEDULER_NAMES
from continuous_unet.comparison.results import Comparison
from continuous_unet.comparison.tradeoff import pareto, quality_and_cost

COLOURS = ("#d62728", "#ff7f0e", "#9467bd", "#8c564b", "#1f77b4", "#17becf", "#2ca02c", "#7f7f7f", "#e377c2", "#bcbd22")
Panels = Sequence[Any]
"""Axes of matplotlib."""
Look = Callable[[str], dict[str, Any]]
STYLES = {"backprop": "-", "checkpoint": "--", "reversible": ":"}


def draw_plots(folder: Path, comparison: Comparison) -> dict[str, str]:
    """Draws the plots into a folder `plots`; returns their titles by file name, relative to the comparison's folder.

    Raises:
        InputError: without matplotlib.
    """
    import_extra("matplotlib", "the report needs matplotlib", "compare").use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(exist_ok=True)
    drawn = {}
    for name, (draw, panels, title) in PLOTS.items():
        size = (11, 4.2) if panels == 2 else (5.6, 4)
        figure, (axes,) = plt.subplots(1, panels, figsize=size, sharey=True, squeeze=False)
        draw(axes, comparison, _look(comparison))
        lines = axes[0].get_legend_handles_labels()
        if lines[0]:
            for panel in axes:
                panel.grid(alpha=0.3, which="both")
                _label_logarithms(panel)
            # below the axes, where it hides nothing
            figure.legend(*lines, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncol=2 * panels, fontsize=8)
            figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
            drawn[f"{folder.name}/{name}.png"] = title
        plt.close(figure)
    return drawn


def _label_logarithms(panel: Any) -> None:
    """Labels logarithmic axes at 1, 2 and 5, as plain numbers: labels at all tens and units run into each other."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    large = EngFormatter(sep=" ")
    for axis in (panel.xaxis, panel.yaxis):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e4 else large(value)))
            axis.set_minor_formatter(NullFormatter())


def _look(comparison: Comparison) -> Look:
    """Returns what gives each side its colour and label."""
    sides = {side.name: (COLOURS[i % len(COLOURS)], side.label) for i, side in enumerate(comparison.sides)}
    return lambda name: {"color": sides[name][0], "label": sides[name][1], "markersize": 3, "linewidth": 1.3}


def _convergence(axes: Panels, comparison: Comparison, look: Look) -> None:
    units = ("training images", "seconds of training, at each side's own speed")
    for panel, unit in zip(axes, units, strict=True):
        for side, trained in comparison.trained():
            factor = 1.0 if unit == units[0] else side.speed.seconds_per_image
            losses = [[point.validation_loss for point in run.curve] for run in trained.runs]
            if losses and losses[0] and not any(None in run for run in losses):
                x = [point.images_seen * factor for point in trained.runs[0].curve]
                values = np.array(losses, dtype=float)
                panel.plot(x, values.mean(0), "o-", **look(side.name))
                panel.fill_between(x, values.min(0), values.max(0), color=look(side.name)["color"], alpha=0.15)
        panel.set(xlabel=unit, xscale="log", yscale="log")
    axes[0].set_ylabel("validation loss")


def _tradeoff(axes: Panels, comparison: Comparison, look: Look) -> None:
    points = quality_and_cost(comparison)
    smallest = 0.02 * comparison.scale.floor.fid if comparison.scale is not None else 0.0
    units = (
        ("MACs of a whole image", lambda point: point.macs_per_image),
        ("seconds of a whole image, in the fastest runtime", lambda point: point.seconds_per_image),
    )
    for panel, (unit, cost) in zip(axes, units, strict=True):
        for side in comparison.sides:
            mine = [(cost(p), max(p.fid_above_floor, smallest)) for p in points if p.side == side.name]
            if mine:
                style = look(side.name)
                marker = "*" if side.own_steps else "o"  # a distilled model has a star
                panel.plot(*zip(*mine, strict=True), marker, color=style["color"], markersize=4, alpha=0.35)
                size = {"markersize": 9 if side.own_steps else 5}
                best = pareto(mine)
                panel.plot(*zip(*best, strict=True), f"{marker}-", **{**style, **size}, drawstyle="steps-post")
        panel.set(xlabel=unit, xscale="log", yscale="log")
    axes[0].set_ylabel("FID above that of real images")


def _progress(axes: Panels, comparison: Comparison, look: Look) -> None:
    for side, trained in comparison.trained():
        points = [(point.images_seen, point.distance.fid) for point in trained.progress]
        if points:
            points.append((trained.images, trained.distances[0].fid))
            axes[0].plot(*zip(*points, strict=True), "o-", **look(side.name))
    if comparison.scale is not None and axes[0].lines:
        axes[0].axhline(comparison.scale.floor.fid, color="black", linewidth=0.8, label="real images")
    axes[0].set(xlabel="training images", ylabel="FID", xscale="log", yscale="log")


def _sampling(axes: Panels, comparison: Comparison, look: Look) -> None:
    measured = {p.scheduler for _, trained in comparison.trained() for p in trained.sampling}
    pairs = CURVE_SCHEDULERS["variance-preserving"], CURVE_SCHEDULERS["flow"]
    names = next((pair for pair in pairs if measured & set(pair)), pairs[0])
    for panel in axes[len(names) :]:
        panel.set_visible(False)
    for panel, scheduler in zip(axes, names, strict=False):
        for side, trained in comparison.trained():
            points = [(p.steps, p.fid) for p in trained.sampling if p.scheduler == scheduler]
            if points:
                panel.plot(*zip(*points, strict=True), "o-", **look(side.name))
        panel.set(xlabel="sampling steps", xscale="log", yscale="log", title=SCHEDULER_NAMES[scheduler])
    axes[0].set_ylabel("FID, in the features named in the report")


def _solver_steps(axes: Panels, comparison: Comparison, look: Look) -> None:
    for side, trained in comparison.trained():
        points = [(row.solver_steps, row.validation_loss) for row in trained.solver_steps]
        if points:
            axes[0].plot(*zip(*points, strict=True), "o-", **look(side.name))
    axes[0].set(xlabel="solver steps in each block, after training", ylabel="validation loss", yscale="log")


def _memory(axes: Panels, comparison: Comparison, look: Look) -> None:
    for side in comparison.sides:
        for mode in dict.fromkeys(row.gradient for row in side.memory if row.solver_steps):
            points = [(row.solver_steps, row.saved_bytes / 2**20) for row in side.memory if row.gradient == mode]
            style = {**look(side.name), "label": f"{side.label}, {mode}"}
            axes[0].plot(*zip(*points, strict=True), STYLES[mode], **style)
    axes[0].set(xlabel="solver steps in each block", ylabel="MiB saved for backward, one image", yscale="log")


PLOTS: dict[str, tuple[Callable[[Panels, Comparison, Look], None], int, str]] = {
    "quality-and-cost": (
        _tradeoff,
        2,
        "FID above that of real images against the cost of a whole image: every point was measured, and the line leads "
        "through those that no other of the side beats. Stars are distilled models.",
    ),
    "progress": (_progress, 1, "Distance to the real images against training images (first seed)."),
    "convergence": (_convergence, 2, "Validation loss against training images and against time; bands are over seeds."),
    "sampling": (_sampling, 2, "Distance to the real images against sampling steps."),
    "solver-steps": (_solver_steps, 1, "Loss of trained models with other numbers of solver steps than in training."),
    "memory": (_memory, 1, "Memory for the backward pass against solver steps."),
}
"""What draws each plot, its number of panels and its title, by file name."""
