"""The report of a comparison: rows, verdicts, plots, and the same page in Markdown and HTML."""

import base64
import csv
import html
import io
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import replace_text

BANDS = tuple(f"validation_loss_quarter_{q}" for q in range(1, 5))
LIMITS = {"small": {"parameters": 0.25, "macs": 0.35}, "base": {"parameters": 0.25, "macs": 0.30}}
"""What the project set out to reach beside the usual-size U-Net; `small` up to 32 pixels, `base` above."""


def write_reports(
    folder: Path, facts: dict[str, Any], measured: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write `results.csv` and its companions, `plots/`, `report.md` and `report.html`; give rows and verdicts.

    Args:
        folder: of the comparison.
        facts: what was compared: configuration, data, sides, machine.
        measured: what came out, as `run.py` collects it.
    """
    rows = make_rows(facts, measured)
    verdicts = make_verdicts(facts, measured, rows)
    write_csv(folder / "results.csv", rows)
    write_csv(folder / "verdicts.csv", verdicts)
    for name, table in companion_tables(measured).items():
        if table:
            write_csv(folder / f"{name}.csv", table)
    plots = draw_plots(folder / "plots", facts, measured)
    page = make_page(folder, facts, measured, rows, verdicts, plots)
    replace_text(folder / "report.md", page.to_markdown())
    replace_text(folder / "report.html", page.to_html(folder))
    return rows, verdicts


# ---------------------------------------------------------------------------------------------------------------- rows


def make_rows(facts: dict[str, Any], measured: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per side. Columns name their unit; `_low` and `_high` are over seeds, `_p25` and `_p75` over rounds.

    `_seeds` has the values of all seeds, in their order and with a space between.
    """
    rows = [_cost_row(side, facts, measured) for side in facts["sides"]]
    if "runs" not in measured:
        return rows
    moment, common = equal_budgets(facts, measured)
    for row in rows:
        name = row["side"]
        runs, distances = measured["runs"][name], measured["distance"][name]
        in_time = moment / measured["speed"][name]["seconds_per_image"]
        row |= {
            "learning_rate": facts["rates"][name],
            "training_images": facts["images"][name],
            "num_seeds": len(runs),
        }
        for key, value in (
            ("validation_loss", [run["validation_loss"] for run in runs]),
            ("validation_loss_equal_images", [at_images(run["curve"], common) for run in runs]),
            ("validation_loss_equal_time", [at_images(run["curve"], in_time) for run in runs]),
            *((band, [run["curve"][-1].get(band) for run in runs]) for band in BANDS),
            *((key, [distance[key] for distance in distances]) for key in ("fid", "kid")),
        ):
            row |= _spread(key, value)
        row |= {
            "kid_std": statistics.fmean(distance["kid_std"] for distance in distances),
            "num_samples": distances[0]["num_images"],
        }
    return rows


def _cost_row(side: dict[str, str], facts: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    name = side["name"]
    cost, speed, sampling = (measured[k][name] for k in ("costs", "speed", "sampling_time"))
    row: dict[str, Any] = {
        "side": name,
        "label": side["label"],
        "parameters": cost["num_parameters"],
        "macs_per_forward": cost["macs"],
        "macs_per_image": cost["macs"] * int(facts["config"]["main_sampler"].partition(":")[2]),
        "field_evaluations": cost["evaluations"],
        "saved_for_backward_bytes": cost["saved_for_backward_bytes"],
        "peak_memory_bytes": cost["peak_memory_bytes"],
        "peak_memory_training_bytes": cost["peak_memory_training_bytes"],
    }
    for kind, times in (("eager", measured["latency"]), ("compiled", measured["compiled"] or {})):
        time = times.get(name, {})
        row[f"latency_{kind}_ms"] = time.get("median_ms", "")
        for part in ("ratio", "ratio_p25", "ratio_p75"):
            row[f"latency_{kind}_{part}"] = time.get(part, "")
    return row | {
        "seconds_per_image": sampling["seconds_per_image"],
        "seconds_per_image_ratio": sampling["ratio"],
        "training_images_per_second": speed["images_per_second"],
        "training_time_ratio": speed["ratio"],
    }


def equal_budgets(facts: dict[str, Any], measured: dict[str, Any]) -> tuple[float, float]:
    """The time, in seconds of training at each side's own speed, and the number of images that every side has had."""
    seconds = [facts["images"][n] * measured["speed"][n]["seconds_per_image"] for n in facts["images"]]
    return min(seconds), min(facts["images"].values())


def at_images(curve: list[dict[str, Any]], images: float) -> float | None:
    """The validation loss after so many images, on straight lines between the curve's points on logarithmic axes.

    None before the first point.
    """
    seen = [point["images_seen"] for point in curve]
    losses = [point["validation_loss"] for point in curve]
    if not seen or images < seen[0] * 0.999 or any(not loss or loss <= 0 for loss in losses):
        return None
    return float(np.exp(np.interp(math.log(images), np.log(seen), np.log(losses))))


def _spread(key: str, values: list[float | None]) -> dict[str, Any]:
    there = [value for value in values if value is not None]
    if not there or len(there) < len(values):
        return {key: "", f"{key}_low": "", f"{key}_high": "", f"{key}_seeds": ""}
    each = " ".join(f"{value:.6g}" for value in there)
    return {key: statistics.fmean(there), f"{key}_low": min(there), f"{key}_high": max(there), f"{key}_seeds": each}


def companion_tables(measured: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What does not fit into one row per side, as tables by file name."""
    if "runs" not in measured:
        return {"memory": measured["memory"]}
    points = [
        {"side": name, "seed": run["seed"], **{k: point.get(k) for k in ("images_seen", "validation_loss", *BANDS)},
         "seconds_at_own_speed": point["images_seen"] * measured["speed"][name]["seconds_per_image"]}
        for name, runs in measured["runs"].items()
        for run in runs
        for point in run["curve"]
    ]  # fmt: skip
    return {
        "curves": points,
        "sampling": [{"side": name, **point} for name, curve in measured["curves"].items() for point in curve],
        "sweep": [{"side": name, **row} for name, rows in measured["sweep"].items() for row in rows],
        "solver-steps": [{"side": name, **row} for name, rows in measured["dial"].items() for row in rows],
        "memory": measured["memory"],
    }


# ------------------------------------------------------------------------------------------------------------ verdicts


def make_verdicts(facts: dict[str, Any], measured: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the project claims, beside what was measured: `met`, `missed`, or `level`.

    Sides that share a seed share the order of the images, their noise and the timesteps, so losses are compared seed by
    seed: `level` is better in some of the seeds and worse in others.
    """
    by_name = {row["side"]: row for row in rows}
    ours, discrete, control = (by_name.get(name) for name in ("ours", "discrete", "control"))
    verdicts: list[dict[str, Any]] = []

    def say(claim: str, target: str, figure: str, verdict: str) -> None:
        verdicts.append({"claim": claim, "target": target, "measured": figure, "verdict": verdict})

    def share(claim: str, key: str, limit: float) -> None:
        assert ours is not None
        assert discrete is not None
        if ours[key] == "" or discrete[key] == "":
            return
        measured_share = ours[key] / discrete[key]
        say(claim, f"at most {limit:.0%}", f"{measured_share:.1%}", "met" if measured_share <= limit else "missed")

    def better(claim: str, other: dict[str, Any] | None, key: str, target: str, strictly: bool) -> None:
        assert ours is not None
        if other is None or "" in (ours.get(key, ""), other.get(key, "")):
            return
        difference = ours[key] / other[key] - 1
        pairs = list(zip(*([float(v) for v in row.get(f"{key}_seeds", "").split()] for row in (ours, other))))
        won = sum(mine <= theirs for mine, theirs in pairs)
        if difference <= 0:
            verdict = "met" if won == len(pairs) or not strictly else "level"
        else:
            verdict = "missed" if won == 0 else "level"
        seeds = f", in {won} of {len(pairs)} seeds" if len(pairs) > 1 else ""
        say(claim, target, f"{ours[key]:.4g} against {other[key]:.4g} ({difference:+.1%}{seeds})", verdict)

    if ours is None or len(rows) == 1:
        why = "the side `ours` was not compared" if ours is None else "there was no other side"
        return [{"claim": f"none: {why}", "target": "", "measured": "", "verdict": ""}]
    if discrete is not None:
        limits = LIMITS["small" if facts["data"]["image_size"] <= 32 else "base"]
        share("parameters, of the usual-size U-Net's", "parameters", limits["parameters"])
        share("MACs per forward", "macs_per_forward", limits["macs"])
        for kind in ("eager", "compiled"):
            key = f"latency_{kind}_ratio"
            if ours[key] != "" and discrete[key] != "":
                ratio = ours[key] / discrete[key]
                say(f"latency per forward, {kind}", "at most 20%", f"{ratio:.1%}", "met" if ratio <= 0.2 else "missed")
        share("bytes saved for backward, as trained", "saved_for_backward_bytes", 0.2)
        frugal = least_saved(measured["memory"])
        if "ours" in frugal:
            value = frugal["ours"] / discrete["saved_for_backward_bytes"]
            say(
                "bytes saved for backward, reversible",
                "at most 20%",
                f"{value:.1%}",
                "met" if value <= 0.2 else "missed",
            )
        better("validation loss, equal images", discrete, "validation_loss_equal_images", "no worse", False)
        better("FID at the end of training", discrete, "fid", "no worse", False)
        better("validation loss, equal wall-clock", discrete, "validation_loss_equal_time", "clearly better", True)
    for name, what in (("discrete-parameters", "parameters"), ("discrete-macs", "MACs")):
        better(f"validation loss against the U-Net cut to our {what}", by_name.get(name),
               "validation_loss_equal_images", "better", True)  # fmt: skip
    if control is not None:
        better("validation loss against the weight-tied control, equal evaluations", control,
               "validation_loss_equal_images", "no worse", False)  # fmt: skip
        better("FID against the weight-tied control", control, "fid", "no worse", False)
        worst = {name: dial_range(measured.get("dial", {}).get(name, [])) for name in ("ours", "control")}
        if worst["ours"] and worst["control"]:
            say("loss with 1 to 8 solver steps, of that with as many as trained (worst; control in brackets)",
                "flatter than the control", f"{worst['ours']:.2f} x ({worst['control']:.2f} x)",
                "met" if worst["ours"] < worst["control"] else "missed")  # fmt: skip
        saved = {name: least_saved(measured["memory"], 8).get(name) for name in ("ours", "control")}
        if saved["ours"] and saved["control"]:
            ratio = saved["ours"] / saved["control"]
            say("bytes saved for an exact backward through 8 steps, of the control's least (checkpointing)", "less",
                f"{ratio:.1%}", "met" if ratio < 1 else "missed")  # fmt: skip
    return verdicts


def least_saved(memory: list[dict[str, Any]], solver_steps: int | None = None) -> dict[str, float]:
    """The most frugal exact gradient mode's bytes, by side: at some number of steps, or at two (discrete: as it is)."""
    wanted = 2 if solver_steps is None else solver_steps
    least: dict[str, float] = {}
    for row in memory:
        if row["solver_steps"] in (None, wanted):
            least[row["side"]] = min(row["saved_bytes"], least.get(row["side"], math.inf))
    return least


def dial_range(rows: list[dict[str, Any]]) -> float | None:
    """The worst validation loss over other numbers of solver steps, relative to that of the number trained with."""
    trained = [row["validation_loss"] for row in rows if row["solver_steps"] == row["trained_with"]]
    return max(row["validation_loss"] for row in rows) / trained[0] if trained else None


# --------------------------------------------------------------------------------------------------------------- plots

COLOURS = ("#d62728", "#ff7f0e", "#9467bd", "#8c564b", "#1f77b4", "#17becf", "#2ca02c", "#7f7f7f", "#e377c2", "#bcbd22")


def draw_plots(folder: Path, facts: dict[str, Any], measured: dict[str, Any]) -> dict[str, str]:
    """Draw what a person looks at first; titles by file name, relative to the comparison's folder."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise InputError("the report needs matplotlib: pip install 'continuous-unet[compare]'") from error
    folder.mkdir(exist_ok=True)
    labels = {side["name"]: side["label"] for side in facts["sides"]}
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(labels)}
    plots = {}

    def save(figure: Any, name: str, title: str) -> None:
        figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
        plt.close(figure)
        plots[f"plots/{name}.png"] = title

    def legend(figure: Any, axes: Any, columns: int = 4) -> None:
        """Below the axes, where it hides nothing."""
        figure.legend(
            *axes.get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, -0.02), ncol=columns, fontsize=8
        )

    if "runs" in measured:
        figure, both = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
        for axes, unit in zip(both, ("images", "seconds"), strict=True):
            for name, runs in measured["runs"].items():
                factor = 1.0 if unit == "images" else measured["speed"][name]["seconds_per_image"]
                points = [[p["validation_loss"] for p in run["curve"]] for run in runs]
                if not points or not points[0] or any(None in p for p in points):
                    continue
                x = [p["images_seen"] * factor for p in runs[0]["curve"]]
                mean = np.mean(points, axis=0)
                axes.plot(x, mean, "o-", color=colours[name], label=labels[name], markersize=3, linewidth=1.3)
                axes.fill_between(x, np.min(points, axis=0), np.max(points, axis=0), color=colours[name], alpha=0.15)
            label = "training images" if unit == "images" else "seconds of training, at each side's own speed"
            axes.set(xlabel=label, xscale="log", yscale="log")
            axes.grid(alpha=0.3, which="both")
        both[0].set_ylabel("validation loss")
        legend(figure, both[0])
        save(figure, "convergence", "Validation loss against training images and against time; bands are over seeds.")

        if any(measured["curves"].values()):
            figure, both = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
            for axes, scheduler in zip(both, ("ddim", "dpm++"), strict=True):
                for name, curve in measured["curves"].items():
                    points = [(p["steps"], p["fid"]) for p in curve if p["scheduler"] == scheduler]
                    if points:
                        axes.plot(
                            *zip(*points, strict=True), "o-", color=colours[name], label=labels[name], markersize=3
                        )
                axes.set(
                    xlabel="sampling steps",
                    xscale="log",
                    yscale="log",
                    title={"ddim": "DDIM"}.get(scheduler, "DPM-Solver++"),
                )
                axes.grid(alpha=0.3, which="both")
            both[0].set_ylabel("FID, features as named")
            legend(figure, both[0])
            save(figure, "sampling", "Distance to the real images against sampling steps.")

        if measured["dial"]:
            figure, axes = plt.subplots(figsize=(5.6, 4))
            for name, rows in measured["dial"].items():
                points = [(r["solver_steps"], r["validation_loss"]) for r in rows]
                axes.plot(*zip(*points, strict=True), "o-", color=colours[name], label=labels[name], markersize=3)
            axes.set(xlabel="solver steps in each block, after training", ylabel="validation loss", yscale="log")
            axes.grid(alpha=0.3, which="both")
            legend(figure, axes, 2)
            save(figure, "solver-steps", "Depth as a dial: trained models with other numbers of solver steps.")

    figure, axes = plt.subplots(figsize=(5.6, 4))
    styles = {"backprop": "-", "checkpoint": "--", "reversible": ":"}
    for row in {(r["side"], r["gradient"]): r for r in measured["memory"]}.values():
        name, mode = row["side"], row["gradient"]
        points = [(r["solver_steps"], r["saved_bytes"] / 2**20) for r in measured["memory"]
                  if r["side"] == name and r["gradient"] == mode and r["solver_steps"]]  # fmt: skip
        if points:
            axes.plot(*zip(*points, strict=True), styles[mode], color=colours[name], label=f"{labels[name]}, {mode}")
    axes.set(xlabel="solver steps in each block", ylabel="MiB saved for backward, one image", yscale="log")
    axes.grid(alpha=0.3, which="both")
    legend(figure, axes, 2)
    save(figure, "memory", "Memory for the backward pass against solver steps.")
    return plots


# ---------------------------------------------------------------------------------------------------------------- page


@dataclass
class Page:
    """A page of headings, paragraphs, tables and pictures, in either language."""

    parts: list[tuple[str, Any]] = field(default_factory=list)

    def add(self, kind: str, content: Any) -> None:
        """Append a `heading`, `title`, `text`, `code`, `table` (head, body) or `picture` (path, title)."""
        self.parts.append((kind, content))

    def to_markdown(self) -> str:
        blocks = []
        for kind, content in self.parts:
            if kind == "table":
                head, body = content
                lines = [head, ["---"] * len(head), *body]
                blocks.append(
                    "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)
                )
            elif kind == "picture":
                blocks.append(f"![{content[1]}]({content[0]})\n\n*{content[1]}*")
            else:
                before, after = {"title": ("# ", ""), "heading": ("## ", ""), "code": ("```\n", "\n```")}.get(
                    kind, ("", "")
                )
                blocks.append(f"{before}{content}{after}")
        return "\n\n".join(blocks) + "\n"

    def to_html(self, folder: Path) -> str:
        """One file that needs no other: pictures are inside it."""
        body = []
        for kind, content in self.parts:
            if kind == "table":
                head, rows = content
                cells = "".join(f"<th>{html.escape(str(c))}</th>" for c in head)
                lines = "".join("<tr>" + "".join(_cell(c) for c in row) + "</tr>" for row in rows)
                body.append(
                    f'<div class="table"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
                )
            elif kind == "picture":
                data = base64.b64encode((folder / content[0]).read_bytes()).decode()
                title = html.escape(content[1])
                body.append(f'<figure><img alt="{title}" src="data:image/png;base64,{data}">'
                            f"<figcaption>{title}</figcaption></figure>")  # fmt: skip
            else:
                tag = {"title": "h1", "heading": "h2", "code": "pre"}.get(kind, "p")
                body.append(f"<{tag}>{html.escape(content)}</{tag}>")
        title = html.escape(next((c for k, c in self.parts if k == "title"), "Comparison"))
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{_STYLE}</style></head><body><main>\n"
            + "\n".join(body)
            + "\n</main></body></html>\n"
        )


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1b1b1b;background:#fff;margin:0}
main{max-width:1500px;margin:0 auto;padding:24px}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}
.table{overflow-x:auto}table{border-collapse:collapse;font-size:.82rem}
th,td{padding:4px 7px;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{border-bottom:2px solid #999}
td.met{color:#176b2c;font-weight:600}td.missed{color:#a31515;font-weight:600}td.level{color:#7a5a00;font-weight:600}
main>p{max-width:75ch}
figure{margin:1rem 0}img{max-width:100%;height:auto}figcaption{color:#555;font-size:.86rem}
pre{background:#f4f4f4;padding:10px;overflow-x:auto}
"""


def _cell(content: Any) -> str:
    text = html.escape(str(content))
    return f'<td class="{text}">{text}</td>' if text in ("met", "missed", "level") else f"<td>{text}</td>"


def make_page(
    folder: Path, facts: dict[str, Any], measured: dict[str, Any], rows: list[dict[str, Any]],
    verdicts: list[dict[str, Any]], plots: dict[str, str],
) -> Page:  # fmt: skip
    """The report: verdicts first, then figures, then how to repeat it."""
    config, data, machine = facts["config"], facts["data"], facts["machine"]
    page = Page()
    page.add("title", f"Continuous and discrete U-Nets on {Path(config['data']).name}, {data['image_size']} pixels")
    kind, _, size = config["budget"].partition("=")
    budget = f"{float(size):,.0f} images" if kind == "images" else f"{size} minutes at its own speed"
    trained = ["Costs only: nothing was trained."] if "runs" not in measured else [
        f"Every side was trained on {budget}, in the same order, with the same noise, AdamW, a constant learning rate",
        f"chosen for each side by the same sweep, and averaged weights; {config['num_seeds']} seed(s).",
    ]  # fmt: skip
    page.add("text", " ".join([
        f"{data['num_images']:,} training images, {data['channels']} channel(s).",
        *trained,
        f"On {machine['name']} ({machine['device']}, {machine['threads']} threads), torch {machine['torch']}.",
    ]))  # fmt: skip
    page.add("heading", "What it comes to")
    page.add("table", (["claim", "target", "measured", ""],
                       [[v["claim"], v["target"], v["measured"], v["verdict"]] for v in verdicts]))  # fmt: skip
    page.add(
        "text",
        "met and missed speak of the mean over the seeds. level: better in some of the seeds and worse in others, "
        "where it should be better; or worse in the mean, but not in every seed.",
    )

    page.add("heading", "Cost")
    first = next((r for r in rows if r["side"] == "discrete"), rows[0])
    body = []
    for row in rows:
        body.append([
            row["label"],
            f"{row['parameters']:,} ({row['parameters'] / first['parameters']:.0%})",
            f"{row['macs_per_forward'] / 1e6:,.1f} M ({row['macs_per_forward'] / first['macs_per_forward']:.0%})",
            f"{row['macs_per_image'] / 1e9:,.2f} G",
            row["field_evaluations"] or "–",
            _latency(row, "eager"),
            _latency(row, "compiled"),
            f"{row['seconds_per_image']:.3f} s ({row['seconds_per_image_ratio']:.0%})",
            f"{row['training_images_per_second']:.1f}",
            f"{row['saved_for_backward_bytes'] / 2**20:.2f} MiB",
            f"{row['peak_memory_bytes'] / 2**20:.2f} / {row['peak_memory_training_bytes'] / 2**20:.2f} MiB",
        ])  # fmt: skip
    page.add("table", ([
        "side", "parameters", "MACs per forward", "MACs per image", "field evaluations", "latency, eager",
        "latency, compiled", "per image", "training images/s", "saved for backward",
        "peak memory, inference / training",
    ], body))  # fmt: skip
    sampler = "{} with {} steps".format(*config["main_sampler"].split(":"))
    page.add("text", " ".join([
        "A MAC is one multiply-accumulate (two FLOPs), counted at every solver stage. Latency: one image, median over",
        f"rounds in which the sides take turns; the share is of {first['label']}'s in the same round, with the middle",
        f"half of the rounds. Per image: whole sampling runs, {sampler}, 8 images at a time. Saved for backward: one",
        "image, in the gradient mode that it was trained in.",
    ]))  # fmt: skip

    if "runs" in measured:
        _add_quality(page, facts, measured, rows, sampler)
    for path, title in plots.items():
        page.add("picture", (path, title))

    if "runs" in measured:
        _add_details(page, folder, facts, measured)
    page.add("heading", "To repeat it")
    page.add(
        "text",
        "compare.yaml has the settings and sides/ the models; pieces/ has every measurement, runs/ every training.",
    )
    page.add("code", f"cunet compare --config {folder.name}/compare.yaml --output another-folder")
    return page


def _add_quality(
    page: Page, facts: dict[str, Any], measured: dict[str, Any], rows: list[dict[str, Any]], sampler: str
) -> None:
    config = facts["config"]
    page.add("heading", "Quality after training")
    floor = measured["floor"]
    body = [[
        row["label"], f"{row['learning_rate']:g}", f"{row['training_images']:,}", row["num_seeds"],
        *(_with_range(row, f"validation_loss{part}", 4) for part in ("", "_equal_images", "_equal_time")),
        *(_number(row[band], 4) for band in BANDS),
        *_distances(row),
    ] for row in rows]  # fmt: skip
    for label, found in (("real against other real images", floor), ("noise against real images", measured["noise"])):
        body.append([label, *[""] * 10, *_distances(found)])
    page.add("table", ([
        "side", "learning rate", "images", "seeds", "validation loss", "at equal images", "at equal wall-clock",
        "least noise", "second quarter", "third quarter", "most noise", "FID", "KID x 1000",
    ], body))  # fmt: skip
    moment, common = equal_budgets(facts, measured)
    page.add("text", " ".join([
        f"Loss: squared error of the prediction ({config['objective']}) on {config['num_validation']} held-out images",
        f"with fixed noise, mean over seeds and range. Equal images: after {common:,} images. Equal wall-clock: after",
        f"{moment:,.0f} seconds of training steps at each side's own speed, measured in turns (– where that is before",
        f"its first validation). FID and KID: {rows[0]['num_samples']:,} samples of the model of each seed, {sampler},",
        f"against {floor['num_images']:,} real images; FID: mean over seeds and range; KID: mean over seeds, ± over",
        f"subsets of the samples; features: {facts['extractor']}. Such distances compare the rows of this",
        "table with each other, not with those of papers; where they come near to that of noise, look at the samples",
        "before believing that one side's are better.",
    ]))  # fmt: skip


def _distances(found: dict[str, Any]) -> tuple[str, str]:
    return _with_range(found, "fid", 2), f"{found['kid'] * 1000:.2f} ± {found['kid_std'] * 1000:.2f}"


def _add_details(page: Page, folder: Path, facts: dict[str, Any], measured: dict[str, Any]) -> None:
    config = facts["config"]
    if any(measured["curves"].values()):
        page.add("heading", "Sampling steps")
        steps = config["sampler_steps"]
        body = []
        for side in facts["sides"]:
            for name, label in (("ddim", "DDIM"), ("dpm++", "DPM-Solver++")):
                points = {p["steps"]: p["fid"] for p in measured["curves"][side["name"]] if p["scheduler"] == name}
                body.append([f"{side['label']}, {label}", *(f"{points[n]:.1f}" if n in points else "–" for n in steps)])
        page.add("table", (["FID", *(f"{n} steps" for n in steps)], body))
        page.add(
            "text",
            f"{config['curve_samples']:,} samples a point: for the shape of a curve; FID falls with more samples.",
        )

    if measured["dial"]:
        page.add("heading", "Solver steps after training")
        steps = sorted({row["solver_steps"] for rows_ in measured["dial"].values() for row in rows_})
        body = []
        for side in facts["sides"]:
            own = {r["solver_steps"]: r for r in measured["dial"].get(side["name"], [])}
            if own:
                trained = next(iter(own.values()))["trained_with"]
                body.append([f"{side['label']} (trained with {trained})",
                             *(f"{own[n]['validation_loss']:.4f}" for n in steps)])  # fmt: skip
        page.add("table", (["validation loss", *(f"{n}" for n in steps)], body))

    page.add("heading", "Samples")
    for side in facts["sides"]:
        path = f"samples/{side['name']}.png"
        if (folder / path).is_file():
            page.add("picture", (path, f"{side['label']}: the same 64 seeds, not chosen"))

    page.add("heading", "The sweep")
    rates = sorted({row["learning_rate"] for tries in measured["sweep"].values() for row in tries})
    body = []
    for side in facts["sides"]:
        own = {row["learning_rate"]: row["validation_loss"] for row in measured["sweep"][side["name"]]}
        best = facts["rates"][side["name"]]
        edge = " (at the edge of the sweep)" if len(rates) > 1 and best in (rates[0], rates[-1]) else ""
        body.append([side["label"], *(f"{own[r]:.4f}" if r in own else "–" for r in rates), f"{best:g}{edge}"])
    page.add("table", (["validation loss at learning rate", *(f"{r:g}" for r in rates), "used"], body))


def _latency(row: dict[str, Any], kind: str) -> str:
    ms = row[f"latency_{kind}_ms"]
    if ms == "":
        return "–"
    low, high = row[f"latency_{kind}_ratio_p25"], row[f"latency_{kind}_ratio_p75"]
    return f"{ms:.1f} ms ({row[f'latency_{kind}_ratio']:.0%}; {low:.0%} to {high:.0%})"


def _with_range(row: dict[str, Any], key: str, digits: int) -> str:
    """A mean with its range over seeds, where there is one."""
    if row[key] == "":
        return "–"
    low, high = (row.get(f"{key}_{end}", row[key]) for end in ("low", "high"))
    spread = f" ({low:.{digits}f} to {high:.{digits}f})" if low < high else ""
    return f"{row[key]:.{digits}f}{spread}"


def _number(value: Any, digits: int) -> str:
    return "–" if value == "" else f"{value:.{digits}f}"


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows of the same columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_text(path, text.getvalue())
