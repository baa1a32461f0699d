"""The report of a comparison: the same page in Markdown and HTML, from templates, and its tables as CSV files."""

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from continuous_unet.base.files import replace_text
from continuous_unet.base.packages import import_extra
from continuous_unet.comparison.formatting import MISSING, SCHEDULER_NAMES, figure, kid, markdown_table, scaled, timing
from continuous_unet.comparison.plots import draw_plots
from continuous_unet.comparison.results import Comparison, Scale, TrainedSides
from continuous_unet.comparison.rows import QualityRow, SideRow, companion_tables, equal_budgets, make_rows, write_csv
from continuous_unet.comparison.sides import square_side
from continuous_unet.comparison.tradeoff import pareto, quality_and_cost
from continuous_unet.comparison.verdicts import Verdict, make_verdicts

Columns = dict[str, Callable[[SideRow], object]]
"""What each column shows of a side, by its heading."""


@dataclass(frozen=True)
class Table:
    """A table of the report."""

    head: list[str]
    body: Sequence[Sequence[object]]

    @classmethod
    def of(cls, columns: Columns, rows: Sequence[SideRow]) -> "Table":
        """Returns a table with a line for each side."""
        return cls(list(columns), [[show(row) for show in columns.values()] for row in rows])


def write_reports(folder: Path, comparison: Comparison) -> tuple[list[SideRow], list[Verdict]]:
    """Writes `results.csv` and its companions, `plots/`, `report.md` and `report.html`; returns rows and verdicts.

    Raises:
        InputError: without matplotlib or Jinja2, or if a file cannot be written.
    """
    rows = make_rows(comparison)
    memory = [row for side in comparison.sides for row in side.memory]
    solver_steps = {side.name: trained.solver_steps for side, trained in comparison.trained()}
    verdicts = make_verdicts(rows, square_side(comparison.data), memory, solver_steps)
    write_csv(folder / "results.csv", [row.cells() for row in rows])
    write_csv(folder / "verdicts.csv", [asdict(verdict) for verdict in verdicts])
    for name, table in companion_tables(comparison).items():
        if table:
            write_csv(folder / f"{name}.csv", table)
    plots = draw_plots(folder / "plots", comparison)
    context = report_context(folder, comparison, rows, verdicts, plots)
    for name in ("report.md", "report.html"):
        replace_text(folder / name, render(name, folder, context))
    return rows, verdicts


def render(name: str, folder: Path, context: Mapping[str, object]) -> str:
    """Returns `report.md` or `report.html`, in which pictures are included, as text."""
    jinja2 = import_extra("jinja2", "the report needs Jinja2", "compare")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["as_markdown"] = lambda table: markdown_table(table.head, table.body)
    environment.filters["as_base64"] = lambda path: base64.b64encode((folder / path).read_bytes()).decode()
    return re.sub(r"\n{3,}", "\n\n", environment.get_template(f"{name}.j2").render(context))


def report_context(
    folder: Path, comparison: Comparison, rows: Sequence[SideRow], verdicts: Sequence[Verdict], plots: dict[str, str]
) -> dict[str, object]:
    """Returns what the templates show."""
    config, trained = comparison.config, comparison.trained()
    kind, size = config.budget_parts()
    reference = next((row for row in rows if row.side == "discrete"), rows[0])
    seconds, images = equal_budgets(comparison)
    samples = {f"samples/{side.name}.png": side.label for side in comparison.sides}
    lines = [[v.claim, v.target, v.measured, v.verdict] for v in verdicts]
    return {
        "comparison": comparison,
        "config": config,
        "folder": folder.name,
        "data_name": Path(config.data).name,
        "budget": f"{size:,.0f} images" if kind == "images" else f"{size:g} minutes at its own speed",
        "reference": reference.label,
        "equal_images": f"{images:,}",
        "equal_seconds": f"{seconds:,.0f}",
        "sampler": f"{SCHEDULER_NAMES[config.scheduler]} with {config.sampling_steps} steps",
        "plots": plots,
        "samples": {path: label for path, label in samples.items() if (folder / path).is_file()},
        "verdicts": Table(["claim", "target", "measured", ""], lines),
        "costs": Table.of(_cost_columns(reference), rows),
        "quality": _quality_table(comparison.scale, rows) if comparison.scale is not None else None,
        "tradeoff": _tradeoff_table(comparison),
        "sampling": _sampling_table(trained, config.curve_steps) if any(t.sampling for _, t in trained) else None,
        "solver_steps": _solver_steps_table(trained) if any(t.solver_steps for _, t in trained) else None,
        "sweep": _sweep_table(trained) if any(t.sweep for _, t in trained) else None,
    }


def _cost_columns(reference: SideRow) -> Columns:
    return {
        "side": lambda row: row.label,
        "parameters": lambda row: f"{row.parameters:,} ({row.parameters / reference.parameters:.0%})",
        "MACs per forward": lambda row: scaled(row.macs_per_forward, "M", 1, reference.macs_per_forward),
        "MACs per image": lambda row: scaled(row.macs_per_image, "G", 2),
        "field evaluations": lambda row: row.field_evaluations or MISSING,
        "latency, eager": lambda row: timing(row.latency_eager, milliseconds=True),
        "latency, compiled": lambda row: timing(row.latency_compiled, milliseconds=True),
        "sampling steps": lambda row: row.sampling_steps or MISSING,
        "per image": lambda row: f"{row.seconds_per_image:.3f} s ({row.seconds_per_image_ratio:.0%})",
        "per image, best runtime": _best_time,
        "training images/s": lambda row: f"{row.training_images_per_second:.1f}",
        "saved for backward": lambda row: scaled(row.saved_for_backward_bytes, "MiB", 2),
        "peak memory, inference": lambda row: scaled(row.peak_memory_bytes, "MiB", 2),
        "peak memory, training": lambda row: scaled(row.peak_memory_training_bytes, "MiB", 2),
    }


def _best_time(row: SideRow) -> str:
    seconds = row.seconds_per_image_best
    return MISSING if seconds is None else f"{seconds:.3f} s ({row.best_runtime})"


def _share(name: str, row: QualityRow) -> str:
    return figure(getattr(row, name), 3, seeds=False)


QUALITY: dict[str, Callable[[QualityRow], object]] = {
    "learning rate": lambda row: f"{row.learning_rate:g}" if row.training_images else MISSING,
    "images": lambda row: f"{row.training_images:,}" if row.training_images else MISSING,
    "seeds": lambda row: row.num_seeds,
    "validation loss": lambda row: figure(row.validation_loss, 4),
    "at equal images": lambda row: figure(row.validation_loss_equal_images, 4),
    "at equal wall-clock": lambda row: figure(row.validation_loss_equal_time, 4),
    "least noise": lambda row: figure(row.validation_loss_quarter_1, 4, seeds=False),
    "second quarter": lambda row: figure(row.validation_loss_quarter_2, 4, seeds=False),
    "third quarter": lambda row: figure(row.validation_loss_quarter_3, 4, seeds=False),
    "most noise": lambda row: figure(row.validation_loss_quarter_4, 4, seeds=False),
    "FID": lambda row: figure(row.fid, 2),
    "KID x 1000": lambda row: kid(row.kid, row.kid_std, 2),
    **{name: partial(_share, name) for name in ("precision", "recall", "density", "coverage")},
}


def _quality_table(scale: Scale, rows: Sequence[SideRow]) -> Table:
    body: list[list[object]] = [
        [row.label, *(show(row.quality) for show in QUALITY.values())] for row in rows if row.quality is not None
    ]
    for label, found in (
        ("real images against other real images", scale.floor),
        ("noise against real images", scale.noise),
    ):
        shares = [found.precision, found.recall, found.density, found.coverage]
        texts = [MISSING if share is None else f"{share:.3f}" for share in shares]
        body.append([label, *[""] * 10, f"{found.fid:.2f}", kid(found.kid, found.kid_std, 2), *texts])
    return Table(["side", *QUALITY], body)


def _pivot(corner: str, headings: list[str], lines: Iterable[tuple[str, Mapping[str, str]]]) -> Table:
    """Returns a table of labels and of cells by heading."""
    return Table([corner, *headings], [[label, *(cells.get(h, MISSING) for h in headings)] for label, cells in lines])


def _sampling_table(sides: TrainedSides, steps: list[int]) -> Table:
    lines = []
    for side, trained in sides:
        for scheduler in dict.fromkeys(point.scheduler for point in trained.sampling):
            fids = {f"{p.steps} steps": f"{p.fid:.1f}" for p in trained.sampling if p.scheduler == scheduler}
            lines.append((f"{side.label}, {SCHEDULER_NAMES.get(scheduler, scheduler)}", fids))
    every = sorted({*steps, *(point.steps for _, trained in sides for point in trained.sampling)})
    return _pivot("FID", [f"{n} steps" for n in every], lines)


def _tradeoff_table(comparison: Comparison) -> Table | None:
    """Returns the ways to make images that no other way of the same side beats in both FID and cost."""
    points = quality_and_cost(comparison)
    body = []
    for side in comparison.sides:
        mine = [point for point in points if point.side == side.name]
        best = pareto([(point.macs_per_image, point.fid_above_floor) for point in mine])
        for point in sorted(mine, key=lambda point: point.macs_per_image):
            if (point.macs_per_image, point.fid_above_floor) in best:
                sampler = f"{SCHEDULER_NAMES.get(point.scheduler, point.scheduler)}, {point.sampling_steps} steps"
                cost = f"{point.macs_per_image / 1e9:.3f} G", f"{point.seconds_per_image:.4f} s ({point.runtime})"
                found = f"{point.fid_above_floor:.2f}", f"{point.num_samples:,}"
                body.append([side.label, sampler, f"{point.parameters:,}", *cost, *found])
    head = ["side", "sampler", "parameters", "MACs per image", "per image", "FID above the floor", "samples"]
    return Table(head, body) if body else None


def _solver_steps_table(sides: TrainedSides) -> Table:
    lines = []
    for side, trained in sides:
        if rows := trained.solver_steps:
            losses = {str(row.solver_steps): f"{row.validation_loss:.4f}" for row in rows}
            lines.append((f"{side.label} (trained with {rows[0].trained_with})", losses))
    steps = sorted({row.solver_steps for _, trained in sides for row in trained.solver_steps})
    return _pivot("validation loss", list(map(str, steps)), lines)


def _sweep_table(sides: TrainedSides) -> Table:
    rates = sorted({point.learning_rate for _, trained in sides for point in trained.sweep})
    edges = {rates[0], rates[-1]} if len(rates) > 1 else set()
    lines = []
    for side, trained in sides:
        if not trained.sweep:
            continue
        used = f"{trained.learning_rate:g}" + " (at the edge of the sweep)" * (trained.learning_rate in edges)
        losses = {f"{point.learning_rate:g}": f"{point.validation_loss:.4f}" for point in trained.sweep}
        lines.append((side.label, {**losses, "used": used}))
    return _pivot("validation loss at learning rate", [*(f"{rate:g}" for rate in rates), "used"], lines)
