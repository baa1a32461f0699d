"""What the claims of the paper (arXiv 2310.20092) come to, from the rows of our comparisons: the table of the README.

Every figure is relative to diffusers' `UNet2DModel` at its usual size, which is trained and measured beside it.
"""

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pages.table import RESULTS, Table

from continuous_unet.comparison.formatting import markdown_table
from continuous_unet.comparison.rows import read_csv

Row = dict[str, str]
NOTHING = "–"


@dataclass(frozen=True)
class Data:
    """One comparison, by its folder in `results/`."""

    folder: str
    name: str
    paper: str | None = None
    """The comparison on the same data that has the paper's own configuration, if it is another one."""

    def side(self, name: str) -> Row | None:
        """A side's row; that of the usual-size U-Net of the same comparison is its `"discrete"`."""
        return rows(self.folder_of(name)).get(name)

    def folder_of(self, side: str) -> str:
        """The comparison that a side's rows are in."""
        return self.paper if side == "paper" and self.paper is not None else self.folder


@functools.cache
def rows(folder: str) -> dict[str, Row]:
    """Rows of `results.csv` of a comparison by side."""
    return {row["side"]: row for row in read_csv(RESULTS / folder / "results.csv")}


COSTS = Data("compare-costs64", "64x64x3, costs alone")
MNIST = Data("compare-mnist", "MNIST, 32x32", "compare-paper")
LONG = Data("compare-mnist-long", "MNIST, long trainings")
SCENES = Data("compare-scenes", "photographs, 32x32x3")
SIDES = ("ours", "control", "discrete-macs", "paper")
HEAD = ("ours", "weight-tied control", "U-Net cut to our MACs", "the paper's configuration")


@dataclass(frozen=True)
class Figure:
    """How a side stands beside the usual-size U-Net."""

    text: str
    holds: bool

    def shown(self) -> str:
        """The figure, in bold if the claim does not hold for it."""
        return self.text if self.holds else f"**{self.text}**"


Measure = Callable[[Data, str], Figure | None]


def saving(key: str, claimed: float) -> Measure:
    """How much less of a quantity a side has; the claim holds if it is at least as much as claimed."""

    def measure(data: Data, side: str) -> Figure | None:
        row, usual = data.side(side), rows(data.folder_of(side))["discrete"]
        if row is None or not row.get(key):
            return None
        less = 1 - float(row[key]) / float(usual[key])
        return Figure(f"{less:.0%} less" if less >= 0 else f"{-less:.0%} more", round(less, 2) >= claimed)

    return measure


def each_seed(key: str, digits: int | None = None) -> Measure:
    """A quantity that should be no higher: it holds if the mean over the seeds is no higher."""

    def measure(data: Data, side: str) -> Figure | None:
        row, usual = data.side(side), rows(data.folder_of(side))["discrete"]
        if row is None or not row.get(f"{key}_seeds"):
            return None
        ours, theirs = ([float(x) for x in of[f"{key}_seeds"].split()] for of in (row, usual))
        lower = sum(o < t for o, t in zip(ours, theirs, strict=True))
        change = statistics.fmean(ours) / statistics.fmean(theirs) - 1
        means = [f"{statistics.fmean(values):.{digits or 0}f}" for values in (ours, theirs)]
        figure = f"{change:+.1%}" if digits is None else f"{means[0]} (U-Net {means[1]})"
        return Figure(f"{figure}, lower in {lower} of {len(ours)} seed{'s' * (len(ours) > 1)}", change <= 0)

    return measure


def until_the_same_loss(unit: str) -> Measure:
    """The share of the U-Net's images or of its training time, after which a side has the U-Net's last loss."""

    def measure(data: Data, side: str) -> Figure | None:
        folder = data.folder_of(side)
        if data.side(side) is None or not (RESULTS / folder / "curves.csv").is_file():
            return None
        shares = images_needed(folder, side)
        if not shares:
            return None
        if math.isinf(statistics.median(shares)):
            return Figure("not reached", False)
        step_time = float(rows(folder)[side]["training_time_ratio"])
        shares = [share * (step_time if unit == "time" else 1) for share in shares]
        middle, spread = statistics.median(shares), f"{min(shares):.0%} to {max(shares):.0%}"
        least = f"{min(shares):.0%}, or never" if math.isinf(max(shares)) else spread
        return Figure(f"{middle:.0%} of the {unit} ({least})" if len(shares) > 1 else f"{middle:.0%}", middle <= 1)

    return measure


def images_needed(folder: str, side: str) -> list[float]:
    """The share of the U-Net's images until its last loss, of each seed; infinite where a side does not reach it."""
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in read_csv(RESULTS / folder / "curves.csv"):
        points = curves.setdefault((row["side"], row["seed"]), [])
        points.append((float(row["images_seen"]), float(row["validation_loss"])))
    shares = []
    for (name, seed), points in curves.items():
        if name != side:
            continue
        images, goal = curves["discrete", seed][-1]
        share = math.inf
        for (before, above), (after, below) in itertools.pairwise(points):
            if below <= goal < above:
                share = (before + (after - before) * (above - goal) / (above - below)) / images
                break
        shares.append(share)
    return shares


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, what measures it, and on what."""

    text: str
    where: str
    parts: Sequence[tuple[str, Data, Measure]]
    """What is measured, on which data, how."""


LATENCIES = (("eager", "latency_eager_ratio"), ("compiled", "latency_compiled_ratio"))
CLAIMS = (
    Claim(
        "a quarter of the parameters",
        "abstract (75 % fewer: press)",
        [("", data, saving("parameters", 0.75)) for data in (COSTS, MNIST)],
    ),
    Claim(
        "30 % of the FLOPs",
        "abstract (70 % fewer: press)",
        [("", data, saving("macs_per_forward", 0.7)) for data in (COSTS, MNIST)],
    ),
    Claim(
        "faster inference, by up to 80 %",
        "abstract; 80 %: press",
        [(f"{name}, ", data, saving(key, 0.8)) for data in (COSTS, MNIST) for name, key in LATENCIES],
    ),
    Claim(
        "less memory, constant in depth",
        "text, without a figure",
        [("saved for backward, ", data, saving("saved_for_backward_bytes", 0)) for data in (COSTS, MNIST)],
    ),
    Claim(
        "images as good or better",
        "abstract of v1, gone in v4",
        [
            *(("FID, ", data, each_seed("fid", 2)) for data in (MNIST, LONG, SCENES)),
            *(
                ("loss after as many images, ", data, each_seed("validation_loss_equal_images"))
                for data in (MNIST, LONG, SCENES)
            ),
        ],
    ),
    Claim(
        "faster convergence",
        "abstract",
        [
            *(("until the same loss, ", data, until_the_same_loss("images")) for data in (MNIST, SCENES)),
            *(("until the same loss, ", data, until_the_same_loss("time")) for data in (MNIST, SCENES)),
        ],
    ),
)


def verdict(figures: dict[str, Figure | None]) -> str:
    """Whether the claim holds for ours, and whether it takes a continuous block for it."""
    ours = figures["ours"]
    if ours is None:
        return NOTHING
    if not ours.holds:
        return "**missed**"
    others = {"control": "the control", "discrete-macs": "the cut U-Net"}
    also = [name for side, name in others.items() if (found := figures[side]) is not None and found.holds]
    return "holds" + (f", and for {' and '.join(also)}" if also else "")


def claims() -> str:
    """The table: a row for each claim and data set."""
    body = []
    for claim in CLAIMS:
        for number, (what, data, measure) in enumerate(claim.parts):
            figures = {side: measure(data, side) for side in SIDES}
            shown = [found.shown() if found is not None else NOTHING for found in figures.values()]
            first = [f"**{claim.text}**", claim.where] if number == 0 else ["", ""]
            body.append([*first, f"{what}{data.name}", *shown, verdict(figures)])
    return markdown_table(["the paper claims", "where it says so", "measured", *HEAD, "for ours, the claim"], body)


TABLES: dict[str, Table] = {"claims": claims}
