"""One row for each side, as in `results.csv`, and the tables beside it: curves, sweep, memory."""

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from continuous_unet.base.files import replace_text
from continuous_unet.base.results import Json
from continuous_unet.comparison.config import CompareConfig
from continuous_unet.comparison.results import Comparison, CurvePoint, Failed, Losses, SideResult, TrainedSide, Training
from continuous_unet.comparison.tradeoff import quality_and_cost
from continuous_unet.evaluation.costs.latency import Latency

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from typing_extensions import Self


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
class Measured:
    """What the columns of a side are computed from."""

    side: SideResult
    config: CompareConfig
    seconds: float
    """Training time that every side had, see `equal_budgets`."""
    images: int
    """Number of training images that every side had."""

    @property
    def sampling_steps(self) -> int:
        """Sampling steps of the FID and of the cost of an image."""
        return self.side.own_steps or self.config.sampling_steps

    @property
    def best(self) -> tuple[str, float]:
        """The runtime with the least time per image that was timed, and the seconds."""
        times = self.side.seconds_per_evaluation(self.config.sampling_steps)
        name = min(times, key=times.__getitem__)
        return name, times[name] * self.sampling_steps

    @property
    def trained(self) -> TrainedSide:
        """The trained side; columns of quality are computed for such sides alone."""
        assert self.side.trained is not None
        return self.side.trained


def column(of: Callable[[Measured], object], default: Any = dataclasses.MISSING) -> Any:
    """Declares a field of a row by what it shows of a side; rows of earlier versions may lack one with a default."""
    return dataclasses.field(default=default, metadata={"of": of})


def over_runs(of: Callable[[Measured, Training], float | None]) -> Any:
    """Declares a field of a row by what it shows of each run of a side."""
    return column(lambda measured: Spread.of([of(measured, run) for run in measured.trained.runs]))


def over_distances(name: str) -> Any:
    """Declares a field of a row by a figure of the distance of each seed's samples to the real images."""
    return column(lambda measured: Spread.of([getattr(found, name) for found in measured.trained.distances]))


def last(run: Training) -> Losses:
    """Returns the last validation of a run."""
    return run.curve[-1] if run.curve else Losses()


@dataclass(frozen=True)
class Row:
    """Base of rows: cells of a table by column. A column names its unit."""

    @classmethod
    def of(cls, measured: Measured) -> "Self":
        """Returns the row of a side."""
        return cls(**{field.name: field.metadata["of"](measured) for field in fields(cls)})

    def cells(self) -> Json:
        """Returns plain values by column; an unmeasured figure is an empty text."""
        cells: Json = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if group := _group(field):
                for part in fields(group):
                    figure = getattr(value, part.name, "")
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
            else:
                for kind in (str, int, float):
                    if field.type == kind | None:
                        found[field.name] = kind(cells[field.name]) if cells.get(field.name) else None
        return found


def _group(field: Field[object]) -> type[Spread] | type[Timing] | None:
    """Returns the class of a figure that takes several columns."""
    return next((kind for kind in (Spread, Timing) if field.type == kind | None), None)


def _column(field: Field[object], part: Field[object]) -> str:
    return field.name if part.name == "mean" else f"{field.name}_{part.name}"


@dataclass(frozen=True)
class QualityRow(Row):
    """The quality that a trained side reaches."""

    learning_rate: float = column(lambda m: m.trained.learning_rate)
    training_images: int = column(lambda m: m.trained.images)
    num_seeds: int = column(lambda m: len(m.trained.distances))
    validation_loss: Spread | None = over_runs(lambda m, run: run.validation_loss)
    validation_loss_equal_images: Spread | None = over_runs(lambda m, run: loss_at(run.curve, m.images))
    validation_loss_equal_time: Spread | None = over_runs(
        lambda m, run: loss_at(run.curve, m.seconds / m.side.speed.seconds_per_image)
    )
    validation_loss_quarter_1: Spread | None = over_runs(lambda m, run: last(run).validation_loss_quarter_1)
    validation_loss_quarter_2: Spread | None = over_runs(lambda m, run: last(run).validation_loss_quarter_2)
    validation_loss_quarter_3: Spread | None = over_runs(lambda m, run: last(run).validation_loss_quarter_3)
    validation_loss_quarter_4: Spread | None = over_runs(lambda m, run: last(run).validation_loss_quarter_4)
    fid: Spread | None = over_distances("fid")
    kid: Spread | None = over_distances("kid")
    kid_std: float = column(lambda m: statistics.fmean(found.kid_std for found in m.trained.distances))
    """Mean over seeds of the standard deviation over subsets of the samples."""
    num_samples: int = column(lambda m: m.trained.distances[0].num_images or 0)
    precision: Spread | None = over_distances("precision")
    recall: Spread | None = over_distances("recall")
    density: Spread | None = over_distances("density")
    coverage: Spread | None = over_distances("coverage")


@dataclass(frozen=True)
class SideRow(Row):
    """A side's costs, and its quality if it was trained."""

    side: str = column(lambda m: m.side.name)
    label: str = column(lambda m: m.side.label)
    parameters: int = column(lambda m: m.side.cost.num_parameters)
    macs_per_forward: int = column(lambda m: m.side.cost.macs)
    macs_per_image: int = column(lambda m: m.side.cost.macs * m.sampling_steps)
    field_evaluations: int = column(lambda m: m.side.cost.evaluations)
    saved_for_backward_bytes: int = column(lambda m: m.side.cost.saved_for_backward_bytes)
    peak_memory_bytes: int = column(lambda m: m.side.cost.peak_memory_bytes)
    peak_memory_training_bytes: int = column(lambda m: m.side.cost.peak_memory_training_bytes)
    latency_eager: Timing | None = column(lambda m: Timing.of(m.side.eager))
    latency_compiled: Timing | None = column(lambda m: Timing.of(m.side.compiled))
    seconds_per_image: float = column(
        lambda m: m.side.sampling_time.seconds_per_image * m.sampling_steps / m.config.sampling_steps
    )
    seconds_per_image_ratio: float = column(lambda m: m.side.sampling_time.ratio)
    training_images_per_second: float = column(lambda m: 1 / m.side.speed.seconds_per_image)
    training_time_ratio: float = column(lambda m: m.side.speed.ratio)
    quality: QualityRow | None = column(lambda m: None if m.side.trained is None else QualityRow.of(m))
    sampling_steps: int | None = column(lambda m: m.sampling_steps, default=None)
    best_runtime: str | None = column(lambda m: m.best[0], default=None)
    seconds_per_image_best: float | None = column(lambda m: m.best[1], default=None)

    @classmethod
    def from_cells(cls, cells: Mapping[str, str]) -> "SideRow":
        """Returns the row that a line of `results.csv` holds."""
        quality = QualityRow(**QualityRow.arguments(cells)) if cells.get("num_seeds") else None
        return cls(**cls.arguments(cells), quality=quality)


def make_rows(comparison: Comparison) -> list[SideRow]:
    """Returns one row for each side."""
    budgets = equal_budgets(comparison)
    return [SideRow.of(Measured(side, comparison.config, *budgets)) for side in comparison.sides]


def equal_budgets(comparison: Comparison) -> tuple[float, int]:
    """Returns the training time in seconds, at each side's own speed, and the number of images that every side had."""
    pairs = [
        (trained.images * side.speed.seconds_per_image, trained.images)
        for side, trained in comparison.trained()
        if trained.runs  # a saved model was not trained here
    ]
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

    def by_side(rows: Iterable[tuple[str, "DataclassInstance"]]) -> list[Json]:
        return [{"side": name, **asdict(row)} for name, row in rows]

    return {
        "curves": [
            {"side": side.name, "seed": run.seed, **asdict(point)}
            | {"seconds_at_own_speed": point.images_seen * side.speed.seconds_per_image}
            for side, done in trained
            for run in done.runs
            for point in run.curve
        ],
        "progress": [
            {"side": side.name, "images_seen": point.images_seen, **asdict(point.distance)}
            for side, done in trained
            for point in done.progress
        ],
        "quality-and-cost": [asdict(point) for point in quality_and_cost(comparison)],
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
    """Writes rows with the same columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_text(path, text.getvalue())
