"""The tables of `docs/comparison.md`: both U-Nets side by side, and the variants of the block."""

from collections.abc import Callable, Iterator
from typing import Any

from pages.table import RESULTS, Spec, Table, millions, rows

from continuous_unet.comparison.formatting import figure, kid, scaled, timing
from continuous_unet.comparison.rows import SideRow, read_csv


def presets() -> Iterator[dict[str, Any]]:
    sides = rows("presets")
    for row in sides:
        yield {**row, "first": sides[0]}


def of_first(key: str, unit: str, digits: int) -> Callable[[dict[str, Any]], str]:
    return lambda row: scaled(row[key], unit, digits, row["first"][key])


SCENES = "on scenes: "
DEFAULT = SCENES + "attention in the middle"


def search(name: str) -> Iterator[dict[str, Any]]:
    """Yields variants of the block by validation loss, those of one size together."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows(name):
        groups.setdefault((row["image_size"], row["steps"], row["variant"]), []).append(row)
    found = []
    for (size, steps, _), own in groups.items():
        losses = [float(row["validation_loss"]) for row in own]
        spread = f" ({min(losses):.4f} to {max(losses):.4f})" if len(losses) > 1 else ""
        mean = sum(losses) / len(losses)
        facts = {
            "mean": mean,
            "loss": f"{mean:.4f}{spread}",
            "seeds": len(losses),
            "seen": steps * own[0]["batch_size"],
        }
        found.append({**own[0], **facts, "image_size": int(size)})
    return iter(sorted(found, key=lambda row: (row["image_size"], row["mean"])))


def search_scenes() -> Iterator[dict[str, Any]]:
    """Yields the variants on photographs, each with the number of seeds in which it beats the block as it is."""
    losses: dict[str, dict[str, float]] = {}
    for row in rows("search-scenes"):
        losses.setdefault(row["variant"], {})[str(row["seed"])] = float(row["validation_loss"])
    for found in search("search-scenes"):
        own, default = losses[found["variant"]], losses[DEFAULT]
        pairs = [(loss, default[seed]) for seed, loss in own.items() if seed in default]
        wins = f"{sum(mine < other for mine, other in pairs)} of {len(pairs)}"
        is_default = found["variant"] == DEFAULT
        yield {**found, "name": found["variant"].removeprefix(SCENES), "wins": "–" if is_default else wins}


def sides(name: str) -> list[SideRow]:
    return [SideRow.from_cells(cells) for cells in read_csv(RESULTS / name / "results.csv")]


def discrete(name: str) -> SideRow:
    return next(row for row in sides(name) if row.side == "discrete")


def comparison_tables(name: str) -> dict[str, Spec]:
    """Returns the tables of a folder of `results/` that `cunet compare` wrote."""

    def of_discrete(key: str, unit: str, digits: int) -> Callable[[SideRow], str]:
        return lambda row: scaled(getattr(row, key), unit, digits, getattr(discrete(name), key))

    def quality(show: Callable[[Any], object]) -> Callable[[SideRow], object]:
        return lambda row: show(row.quality)

    return {
        f"{name}-verdicts": Spec(
            lambda: rows(f"{name}/verdicts"),
            {
                "claim": "{claim}",
                "target": "{target}",
                "measured": "{measured}",
                "": lambda row: "**missed**" if row["verdict"] == "missed" else row["verdict"],
            },
        ),
        f"{name}-costs": Spec(
            lambda: sides(name),
            {
                "side": lambda row: row.label,
                "parameters": of_discrete("parameters", "M", 2),
                "MACs": of_discrete("macs_per_forward", "M", 0),
                "latency, eager": lambda row: timing(row.latency_eager),
                "compiled": lambda row: timing(row.latency_compiled),
                "saved for backward": of_discrete("saved_for_backward_bytes", "MiB", 1),
                "training step": lambda row: f"{row.training_time_ratio:.0%}",
            },
        ),
        f"{name}-quality": Spec(
            lambda: sides(name),
            {
                "side": lambda row: row.label,
                "seeds": quality(lambda found: found.num_seeds),
                "learning rate": quality(lambda found: f"{found.learning_rate:g}"),
                "loss, equal images": quality(lambda found: figure(found.validation_loss_equal_images, 4)),
                "loss, equal wall-clock": quality(lambda found: figure(found.validation_loss_equal_time, 4)),
                "FID": quality(lambda found: figure(found.fid, 2)),
                "KID x 1000": quality(lambda found: kid(found.kid, found.kid_std, 1)),
            },
        ),
    }


def above_floor(name: str) -> Iterator[dict[str, Any]]:
    """Yields the sides of a comparison with the FID of real images beside their own."""
    points = rows(f"{name}/quality-and-cost")
    for row in rows(f"{name}/results"):
        end = next(point for point in points if point["side"] == row["side"])  # the first one is of the main sampler
        yield {**row, "floor": float(end["fid"]) - float(end["fid_above_floor"])}


def long_training(name: str, *shares: str) -> Spec:
    """Returns the table of a comparison that was trained for hours: costs, losses, and FID beside real images'.

    Args:
        name: a folder of `results/`.
        shares: further columns, of those that are shares: precision, recall, density and coverage.
    """
    columns: dict[str, Any] = {
        "side": "{label}",
        "parameters": millions("parameters", 2),
        "MACs": millions("macs_per_forward", 0),
        "an image takes": lambda row: f"{float(row['seconds_per_image_best']):.3f} s ({row['best_runtime']})",
        "learning rate": "{learning_rate}",
        "loss": "{validation_loss:.4f}",
        "loss, equal time": "{validation_loss_equal_time:.4f}",
        "FID": lambda row: f"{float(row['fid']):.{0 if row['floor'] > 1 else 2}f}",
        "real images": lambda row: f"{row['floor']:.{1 if row['floor'] > 1 else 3}f}",
        "times that": lambda row: f"{float(row['fid']) / row['floor']:.1f}",
    }
    return Spec(lambda: above_floor(name), columns | {share: f"{{{share}:.0%}}" for share in shares})


PREPARATIONS = ("eager", "channels-last", "precomputed", "convolutions", "compiled")
"""How models are prepared in the table of latencies, in its order."""

TABLES: dict[str, Table] = {
    "presets": Spec(
        presets,
        {
            "64x64x3, one image": "{model}",
            "parameters": of_first("parameters", "M", 1),
            "MACs": of_first("macs", "G", 2),
            "saved for backward": of_first("saved_for_backward_bytes", "MiB", 0),
            "latency, 2 CPU cores": "{latency_ratio:.0%} ({latency_ratio_p25:.0%} to {latency_ratio_p75:.0%})",
        },
    ),
    "latency": Spec(
        lambda: sorted(rows("latency"), key=lambda row: (row["threads"], PREPARATIONS.index(row["preparation"]))),
        {
            "threads": "{threads}",
            "preparation": "{preparation}",
            "side": "{side}",
            "time": "{latency_ms:.1f} ms",
            "relative to `UNet2DModel`": "{ratio:.0%} ({ratio_p25:.0%} to {ratio_p75:.0%})",
        },
        missing="latency.py --compiled",
    ),
    "search": Spec(
        lambda: search("search"),
        {
            "variant": "{variant}",
            "images": "{image_size}x{image_size}",
            "parameters": millions("parameters", 2),
            "MACs": millions("macs", 1),
            "validation loss": "{loss}",
            "seeds": "{seeds}",
            "images seen": "{seen:,.0f}",
        },
    ),
    "search-scenes": Spec(
        search_scenes,
        {
            "variant": "{name}",
            "parameters": millions("parameters", 2),
            "MACs": millions("macs", 1),
            "validation loss": "{loss}",
            "below the block as it is": "{wins}",
        },
        missing='search.py --only "on scenes"',
    ),
}
for _name in ("compare-mnist", "compare-scenes", "compare-paper", "compare-costs64"):
    TABLES |= comparison_tables(_name)
TABLES["compare-mnist-long-fid"] = long_training("compare-mnist-long", "precision", "recall")
TABLES["compare-scenes-64-fid"] = long_training("compare-scenes-64", "coverage")
