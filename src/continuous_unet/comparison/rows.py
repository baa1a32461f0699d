"""One row for each side, as in `results.csv`, and what does not fit into it: curves, sweep, memory."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from continuous_unet.base.files import replace_text
from continuous_unet.base.results import Json
from continuous_unet.comparison.results import Comparison, CurvePoint, Failed, SideResult, TrainedSide
from continuous_unet.evaluation.costs.latency import Latency

BANDS = tuple(f"validation_loss_quarter_{quarter}" for quarter in range(1, 5))
"""Losses over the quarters of the timesteps, from least to most noise."""


@dataclass(frozen=True)
class Spread:
    """A figure over seeds."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """Returns None if there are no values, or one is missing."""
        known = tuple(value for value in values if value is not None)
        if not known or len(known) < len(values):
            return None
        return cls(statistics.fmean(known), min(known), max(known), known)


@dataclass(frozen=True)
class Timing:
    """A latency, and its ratio to the reference side in the same round: median and middle half of the rounds."""

    ms: float
    ratio: float
    ratio_p25: float
    ratio_p75: float

    @classmethod
    def of(cls, latency: Latency | Failed | None) -> "Timing | None":
        """Returns None for what was not timed."""
        if not isinstance(latency, Latency):
            return None
        return cls(latency.median_ms, latency.ratio, latency.ratio_p25, latency.ratio_p75)


@dataclass(frozen=True)
class Row:
    """Base of rows: cells of a table by column. A column names its unit."""

    def cells(self) -> Json:
        """Returns plain values by column; an unmeasured figure is an empty text."""
        cells: Json = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if group := _group(field):
                for part in fields(group):
                    figure = "" if value is None else getattr(value, part.name)
                    text = " ".join(f"{v:.6g}" for v in figure) if isinstance(figure, tuple) else figure
                    cells[_column(field, part)] = text
            elif isinstance(value, Row):
                cells |= value.cells()
            elif value is not None:
                cells[field.name] = value
        return cells

    @classmethod
    def arguments(cls, cells: Mapping[str, str]) -> Json:
        """Returns the arguments of the class from the texts of a CSV file."""
        found: Json = {}
        for field in fields(cls):
            if group := _group(field):
                texts = {part.name: cells.get(_column(field, part), "") for part in fields(group)}
                seeds = tuple(map(float, texts.pop("seeds", "").split()))
                values: Json = {name: float(text) for name, text in texts.items() if text}
                values |= {"seeds": seeds} if values and group is Spread else {}
                found[field.name] = group(**values) if values else None
            elif field.type in (str, int, float):
                found[field.name] = field.type(cells[field.name])
        return found


def _group(field: Field[Any]) -> type[Spread] | type[Timing] | None:
    """Returns the class of a figure that takes several columns."""
    return next((kind for kind in (Spread, Timing) if field.type == kind | None), None)


def _column(field: Field[Any], part: Field[Any]) -> str:
    return field.name if part.name == "mean" else f"{field.name}_{part.name}"


@dataclass(frozen=True)
class QualityRow(Row):
    """What a trained side reaches."""

    learning_rate: float
    training_images: int
    num_seeds: int
    validation_loss: Spread | None
    validation_loss_equal_images: Spread | None
    validation_loss_equal_time: Spread | None
    validation_loss_quarter_1: Spread | None
    validation_loss_quarter_2: Spread | None
    validation_loss_quarter_3: Spread | None
    validation_loss_quarter_4: Spread | None
    fid: Spread | None
    kid: Spread | None
    kid_std: float
    """Mean over seeds of the standard deviation over subsets of the samples."""
    num_samples: int


@dataclass(frozen=True)
class SideRow(Row):
    """A side's costs, and its quality if it was trained."""

    side: str
    label: str
    parameters: int
    macs_per_forward: int
    macs_per_image: int
    field_evaluations: int
    saved_for_backward_bytes: int
    peak_memory_bytes: int
    peak_memory_training_bytes: int
    latency_eager: Timing | None
    latency_compiled: Timing | None
    seconds_per_image: float
    seconds_per_image_ratio: float
    training_images_per_second: float
    training_time_ratio: float
    quality: QualityRow | None = None

    @classmethod
    def from_cells(cls, cells: Mapping[str, str]) -> "SideRow":
        """Returns the row that a line of `results.csv` holds."""
        quality = QualityRow(**QualityRow.arguments(cells)) if cells.get("num_seeds") else None
        return cls(**cls.arguments(cells), quality=quality)


def make_rows(comparison: Comparison) -> list[SideRow]:
    """Returns one row for each side."""
    budgets = equal_budgets(comparison)
    return [_row(comparison, side, budgets) for side in comparison.sides]


def _row(comparison: Comparison, side: SideResult, budgets: tuple[float, int]) -> SideRow:
    cost = side.cost
    return SideRow(
        side=side.name,
        label=side.label,
        parameters=cost.num_parameters,
        macs_per_forward=cost.macs,
        macs_per_image=cost.macs * comparison.config.sampling_steps,
        field_evaluations=cost.evaluations,
        saved_for_backward_bytes=cost.saved_for_backward_bytes,
        peak_memory_bytes=cost.peak_memory_bytes,
        peak_memory_training_bytes=cost.peak_memory_training_bytes,
        latency_eager=Timing.of(side.eager),
        latency_compiled=Timing.of(side.compiled),
        seconds_per_image=side.sampling_time.seconds_per_image,
        seconds_per_image_ratio=side.sampling_time.ratio,
        training_images_per_second=1 / side.speed.seconds_per_image,
        training_time_ratio=side.speed.ratio,
        quality=None if side.trained is None else _quality(side, side.trained, budgets),
    )


def _quality(side: SideResult, trained: TrainedSide, budgets: tuple[float, int]) -> QualityRow:
    seconds, images = budgets
    runs, distances = trained.runs, trained.distances
    in_time = seconds / side.speed.seconds_per_image
    bands: Json = {
        band: Spread.of([getattr(run.curve[-1], band) if run.curve else None for run in runs]) for band in BANDS
    }
    return QualityRow(
        learning_rate=trained.learning_rate,
        training_images=trained.images,
        num_seeds=len(runs),
        validation_loss=Spread.of([run.validation_loss for run in runs]),
        validation_loss_equal_images=Spread.of([loss_at(run.curve, images) for run in runs]),
        validation_loss_equal_time=Spread.of([loss_at(run.curve, in_time) for run in runs]),
        **bands,
        fid=Spread.of([distance.fid for distance in distances]),
        kid=Spread.of([distance.kid for distance in distances]),
        kid_std=statistics.fmean(distance.kid_std for distance in distances),
        num_samples=distances[0].num_images or 0,
    )


def equal_budgets(comparison: Comparison) -> tuple[float, int]:
    """Returns the training time in seconds, at each side's own speed, and the number of images that every side had."""
    pairs = [(trained.images * side.speed.seconds_per_image, trained.images) for side, trained in comparison.trained()]
    return min((seconds for seconds, _ in pairs), default=0.0), min((images for _, images in pairs), default=0)


def loss_at(curve: Sequence[CurvePoint], images: float) -> float | None:
    """Returns the validation loss after a number of images, interpolated between points on logarithmic axes.

    It is None before the first point.
    """
    losses = [point.validation_loss or 0.0 for point in curve]
    if not curve or images < curve[0].images_seen * 0.999 or min(losses) <= 0:
        return None
    return float(np.exp(np.interp(math.log(images), np.log([p.images_seen for p in curve]), np.log(losses))))


def companion_tables(comparison: Comparison) -> dict[str, list[Json]]:
    """Returns what does not fit into one row for each side, as tables by file name."""
    trained = comparison.trained()

    def by_side(rows: Iterable[tuple[str, Any]]) -> list[Json]:
        return [{"side": name, **asdict(row)} for name, row in rows]

    return {
        "curves": [
            {"side": side.name, "seed": run.seed, **asdict(point)}
            | {"seconds_at_own_speed": point.images_seen * side.speed.seconds_per_image}
            for side, done in trained
            for run in done.runs
            for point in run.curve
        ],
        "sampling": by_side((side.name, row) for side, done in trained for row in done.sampling),
        "sweep": by_side((side.name, row) for side, done in trained for row in done.sweep),
        "solver-steps": by_side((side.name, row) for side, done in trained for row in done.solver_steps),
        "memory": [asdict(row) for side in comparison.sides for row in side.memory],
    }


def read_csv(path: Path) -> list[dict[str, str]]:
    """Returns the lines of a CSV file by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows of the same columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_text(path, text.getvalue())
