"""Writes the tables of README and docs from the rows in `benchmarks/results`: no figure is typed by hand.

python benchmarks/tables.py           # rewrite what stands between the markers `<!-- table NAME -->` and `<!-- end -->`
python benchmarks/tables.py --check   # exit 1 if a page is not up to date (a test runs this)
"""

import csv
import itertools
import json
import math
import re
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def rows(name: str) -> list[dict[str, str]]:
    with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(head: list[str], body: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def presets() -> str:
    sides = rows("presets")
    first = sides[0]
    body = []
    for row in sides:
        share = {k: float(row[k]) / float(first[k]) for k in ("parameters", "macs", "saved_for_backward_bytes")}
        body.append([
            row["model"],
            f"{float(row['parameters']) / 1e6:.1f} M ({share['parameters']:.0%})",
            f"{float(row['macs']) / 1e9:.2f} G ({share['macs']:.0%})",
            f"{float(row['saved_for_backward_bytes']) / 2**20:.0f} MiB ({share['saved_for_backward_bytes']:.0%})",
            f"{float(row['latency_ratio']):.0%} ({float(row['latency_ratio_p25']):.0%} to "
            f"{float(row['latency_ratio_p75']):.0%})",
        ])  # fmt: skip
    return table(["64x64x3, one image", "parameters", "MACs", "saved for backward", "latency, 2 CPU cores"], body)


def gradients() -> str:
    body = []
    training = rows("solvers-training")
    for row in training:
        if row["num_steps"] != "4" or row["t1"] != "4":
            continue
        same = ("field", "method", "gradient")
        (long,) = (r for r in training if r["num_steps"] == "64" and all(r[k] == row[k] for k in same))
        error = float(row["gradient_error"])
        body.append([
            f"`{row['method']}`",
            f"`{row['gradient']}`" + (" (torchdiffeq)" if row["library"] == "torchdiffeq" else ""),
            row["nfe"],
            "exact" if error == 0 else f"{error:.0e}",
            f"{float(row['saved_bytes']) / 1e6:.1f} MB",
            f"{float(long['saved_bytes']) / 1e6:,.1f} MB",
            f"{float(row['time_to_backprop']):.2f}",
        ])  # fmt: skip
    head = ["method", "gradient", "evaluations, 4 steps", "gradient error", "saved, 4 steps", "saved, 64 steps",
            "time / its backprop"]  # fmt: skip
    return table(head, body)


def accuracy() -> str:
    everything = rows("solvers-accuracy")
    problem = everything[0]["problem"]
    body = []
    for method in dict.fromkeys(r["method"] for r in everything if r["problem"] == problem):
        own = {r["nfe"]: float(r["error"]) for r in everything if r["problem"] == problem and r["method"] == method}
        if "dopri5" in method:
            for row in everything:
                if row["problem"] == problem and row["method"] == method:
                    error = f"{float(row['error']):.1e} at {row['nfe']} evaluations"
                    body.append([f"{method} ({row['library']})", "", "", "", error])
        else:
            body.append([f"`{method}`", *(f"{own[n]:.1e}" for n in ("4", "8", "16", "32"))])
    return table(["method", "4 evaluations", "8", "16", "32"], body)


def targets() -> str:
    verdict = {"True": "met", "False": "**missed**"}
    body = [
        [row["target"], f"{float(row['measured']):.3g}", f"{float(row['limit']):g}", verdict[row["met"]]]
        for row in rows("solvers-targets")
    ]
    return table(["target", "measured", "at most", ""], body)


def runs() -> str:
    body = []
    for name in ("digits-tiny", "mnist-small"):
        folder = RESULTS / name
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        last = [r for r in records if "loss" in r][-1]
        validation = [r["validation_loss"] for r in records if "validation_loss" in r][-1]
        speeds = sorted(r["images_per_second"] for r in records if "images_per_second" in r)
        data = facts["data"]
        body.append([
            f"`examples/{name.split('-')[0]}.yaml`",
            f"{data['num_images']:,} images, {data['image_size']}x{data['image_size']}",
            f"{facts['num_parameters']:,}",
            f"{last['images_seen']:,}",
            f"{speeds[len(speeds) // 2]:.0f}",
            f"{validation:.4f}",
        ])  # fmt: skip
    return table(["run", "data", "parameters", "images seen", "images/s, 2 CPU cores", "validation loss (v)"], body)


def _comparison(name: str) -> list[dict[str, str]]:
    return rows(f"{name}/results")


def comparison_verdicts(name: str) -> str:
    verdict = {"missed": "**missed**"}
    body = [
        [row["claim"], row["target"], row["measured"], verdict.get(row["verdict"], row["verdict"])]
        for row in rows(f"{name}/verdicts")
    ]
    return table(["claim", "target", "measured", ""], body)


def comparison_costs(name: str) -> str:
    sides = _comparison(name)
    first = next(row for row in sides if row["side"] == "discrete")

    def share(row: dict[str, str], key: str) -> str:
        return f"{float(row[key]) / float(first[key]):.0%}"

    def latency(row: dict[str, str], kind: str) -> str:
        if not row[f"latency_{kind}_ratio"]:
            return "–"
        low, middle, high = (float(row[f"latency_{kind}_{part}"]) for part in ("ratio_p25", "ratio", "ratio_p75"))
        return f"{middle:.0%} ({low:.0%} to {high:.0%})"

    body = [
        [
            row["label"],
            f"{float(row['parameters']) / 1e6:.2f} M ({share(row, 'parameters')})",
            f"{float(row['macs_per_forward']) / 1e6:,.0f} M ({share(row, 'macs_per_forward')})",
            latency(row, "eager"),
            latency(row, "compiled"),
            f"{float(row['saved_for_backward_bytes']) / 2**20:.1f} MiB ({share(row, 'saved_for_backward_bytes')})",
            f"{float(row['training_time_ratio']):.0%}",
        ]
        for row in sides
    ]
    head = ["side", "parameters", "MACs", "latency, eager", "compiled", "saved for backward", "training step"]
    return table(head, body)


def comparison_quality(name: str) -> str:
    def over_seeds(row: dict[str, str], key: str, digits: int) -> str:
        if not row[key]:
            return "–"
        mean, low, high = (f"{float(row[f'{key}{end}']):.{digits}f}" for end in ("", "_low", "_high"))
        return f"{mean} ({low} to {high})" if row["num_seeds"] != "1" else mean

    body = [
        [
            row["label"],
            row["num_seeds"],
            f"{float(row['learning_rate']):g}",
            over_seeds(row, "validation_loss_equal_images", 4),
            over_seeds(row, "validation_loss_equal_time", 4),
            over_seeds(row, "fid", 2),
            f"{1000 * float(row['kid']):.1f} ± {1000 * float(row['kid_std']):.1f}",
        ]
        for row in _comparison(name)
    ]
    head = ["side", "seeds", "learning rate", "loss, equal images", "loss, equal wall-clock", "FID", "KID x 1000"]
    return table(head, body)


def _reached(name: str) -> str:
    """How much of its images and seconds the usual-size U-Net needs, ours needs for the U-Net's last loss, by seed."""
    if not (RESULTS / name / "curves.csv").is_file():
        return "–"
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows(f"{name}/curves"):
        points = curves.setdefault((row["side"], row["seed"]), [])
        points.append((float(row["images_seen"]), float(row["validation_loss"])))
    shares = []
    for (side, seed), points in curves.items():
        if side != "ours":
            continue
        images, goal = curves["discrete", seed][-1]
        for (before, above), (after, below) in itertools.pairwise(points):
            if below <= goal < above:
                shares.append((before + (after - before) * (above - goal) / (above - below)) / images)
                break
        else:
            shares.append(math.inf)
    if math.isinf(statistics.median(shares)):
        return "not reached"
    step_time = next(float(row["training_time_ratio"]) for row in _comparison(name) if row["side"] == "ours")
    spread = "{:.0%} ({:.0%} to {:.0%})"
    middle = statistics.median(shares)
    return (
        spread.format(middle, min(shares), max(shares))
        + " of the images, "
        + spread.format(*(share * step_time for share in (middle, min(shares), max(shares))))
        + " of the time"
    )


def claims() -> str:
    """What the paper claims of the continuous U-Net, and what ours saves of the usual-size U-Net, run by run."""
    names = ("compare-costs64", "compare-mnist", "compare-scenes")
    pairs = []
    for name in names:
        sides = {row["side"]: row for row in _comparison(name)}
        pairs.append((sides["ours"], sides["discrete"]))

    def less(key: str) -> list[str]:
        return [
            f"{1 - float(ours[key]) / float(discrete[key]):.0%} less" if ours.get(key) else "–"
            for ours, discrete in pairs
        ]

    def faster() -> list[str]:
        kinds = ("latency_eager_ratio", "latency_compiled_ratio")
        return [" / ".join(f"{1 - float(ours[kind]):.0%}" for kind in kinds) + " less" for ours, _ in pairs]

    def lower_in(ours: dict[str, str], discrete: dict[str, str], key: str) -> str:
        seeds = [float(o) < float(d) for o, d in zip(*(row[f"{key}_seeds"].split() for row in (ours, discrete)))]
        return f"(lower in {sum(seeds)} of {len(seeds)} seeds)"

    def loss(key: str) -> list[str]:
        return [
            f"{float(ours[key]) / float(discrete[key]) - 1:+.0%} {lower_in(ours, discrete, key)}"
            if ours.get(key)
            else "–"
            for ours, discrete in pairs
        ]

    def fid() -> list[str]:
        return [
            f"FID {float(ours['fid']):.2f}, U-Net {float(discrete['fid']):.2f} {lower_in(ours, discrete, 'fid')}"
            if ours.get("fid")
            else "–"
            for ours, discrete in pairs
        ]

    body = [
        ["75 % fewer parameters", *less("parameters")],
        ["70 % fewer FLOPs", *less("macs_per_forward")],
        ["80 % faster inference (time per forward, eager / compiled, 2 CPU cores)", *faster()],
        ["less memory (bytes saved for backward, as trained)", *less("saved_for_backward_bytes")],
        ["equal or better images (FID of a small classifier)", *fid()],
        ["faster convergence: images and time until the U-Net's last loss", *map(_reached, names)],
        ["validation loss after as many images", *loss("validation_loss_equal_images")],
        ["validation loss after as many seconds", *loss("validation_loss_equal_time")],
    ]
    return table(["the paper claims, up to", "64x64x3, costs alone", "MNIST, 32x32", "scenes, 32x32x3"], body)


def summary() -> str:
    """Returns the README's table: ours relative to diffusers' `UNet2DModel`. A figure in bold misses its target."""
    names = ("compare-costs64", "compare-mnist", "compare-scenes")
    sides = [{row["side"]: row for row in _comparison(name)} for name in names]

    def cells(key: str, limit: float, form: str, beside: str = "discrete", offset: float = 0.0) -> list[str]:
        found = []
        for side in sides:
            if not side["ours"].get(key):
                found.append("–")
                continue
            share = float(side["ours"][key]) / float(side[beside][key]) - offset
            found.append(form.format(share) if share <= limit else f"**{form.format(share)}**")
        return found

    share, change = "{:.0%}", "{:+.1%}"
    body = [
        ["parameters", "at most 25%", *cells("parameters", 0.25, share)],
        ["MACs of a forward pass", "at most 35%", *cells("macs_per_forward", 0.35, share)],
        ["latency of one image, eager", "at most 20%", *cells("latency_eager_ratio", 0.2, share)],
        ["latency of one image, compiled", "at most 20%", *cells("latency_compiled_ratio", 0.2, share)],
        ["bytes saved for the backward pass", "at most 20%", *cells("saved_for_backward_bytes", 0.2, share)],
        ["validation loss", "no worse", *cells("validation_loss_equal_images", 0, change, offset=1)],
        ["FID, by a small classifier", "no worse", *cells("fid", 0, change, offset=1)],
        [
            "validation loss, against the weight-tied control",
            "no worse",
            *cells("validation_loss_equal_images", 0, change, "control", offset=1),
        ],
        ["FID, against the weight-tied control", "no worse", *cells("fid", 0, change, "control", offset=1)],
    ]
    head = ["ours, relative to `UNet2DModel`", "target", "64x64x3, not trained", "MNIST, 32x32", "scenes, 32x32x3"]
    return table(head, body)


def search() -> str:
    """Variants of the block by validation loss, those of one size together."""
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows("search"):
        groups.setdefault((row["image_size"], row["steps"], row["variant"]), []).append(row)
    body = []
    for (size, steps, variant), own in groups.items():
        losses = [float(row["validation_loss"]) for row in own]
        spread = f" ({min(losses):.4f} to {max(losses):.4f})" if len(losses) > 1 else ""
        images = int(steps) * int(own[0]["batch_size"])
        body.append([
            int(size), sum(losses) / len(losses), variant, f"{int(own[0]['parameters']) / 1e6:.2f} M",
            f"{int(own[0]['macs']) / 1e6:.1f} M", f"{sum(losses) / len(losses):.4f}{spread}", len(losses),
            f"{images:,}",
        ])  # fmt: skip
    body.sort(key=lambda line: line[:2])
    lines = [[variant, f"{size}x{size}", *rest] for size, _, variant, *rest in body]
    return table(["variant", "images", "parameters", "MACs", "validation loss", "seeds", "images seen"], lines)


FAULTS = {
    "kills": "Kills", "disk": "Full and read-only disks", "flips": "Damaged checkpoints", "signals": "Signals",
    "processes": "Several processes", "images": "Bad images", "models": "Hostile files",
    "arguments": "Random arguments", "long": "Long runs",
}  # fmt: skip


def faults() -> str:
    parts = rows("faults")
    body = []
    for part, title in FAULTS.items():
        own = [row for row in parts if row["part"] == part]
        trials, bad = (sum(int(row[k]) for row in own) for k in ("trials", "bad"))
        body.append([f"**{title}**", f"**{trials:,}**", f"**{bad}**", f"`python benchmarks/faults --only {part}`"])
        body += [[row["case"], f"{int(row['trials']):,}", row["bad"], row["figures"]] for row in own]
    return table(["what was done", "times", "lost or wrong", "measured"], body)


def loading() -> str:
    body = [
        [
            row["workers"],
            row["images_per_second"],
            row["training_images_per_second"],
            f"{float(row['to_training']):.0f}",
        ]
        for row in rows("loading")
    ]
    return table(["workers", "images/s read", "images/s trained, preset `base`, CPU", "ratio, median of rounds"], body)


def solver_loops() -> str:
    head = ["solver steps", "in the graph", "nodes", "export", "latency", "of eager PyTorch", "error"]
    body = []
    for row in rows("solver-loops"):
        spread = f"({float(row['ratio_p25']):.2f} to {float(row['ratio_p75']):.2f})"
        body.append([
            row["solver_steps"],
            row["solver"],
            row["nodes"],
            f"{float(row['export_seconds']):.0f} s",
            f"{float(row['latency_ms']):.1f} ms",
            f"{float(row['ratio']):.2f} {spread}",
            row["max_error"],
        ])  # fmt: skip
    return table(head, body)


def _deploy(part: str) -> list[dict[str, str]]:
    return [row for row in rows("deploy") if row["part"] == part] if (RESULTS / "deploy.csv").is_file() else []


def _deploy_table(part: str, head: list[str], line: Callable[[dict[str, str]], list[Any]]) -> str:
    own = _deploy(part)
    if not own:
        return f"*Not measured yet: `python benchmarks/deploy.py … --only {part}`.*"
    return table(head, [line(row) for row in own])


def _ratio(row: dict[str, str]) -> str:
    return f"{float(row['ratio']):.2f} ({float(row['ratio_p25']):.2f} to {float(row['ratio_p75']):.2f})"


def deploy_exports() -> str:
    return _deploy_table(
        "exports",
        ["side", "form", "size", "error of one evaluation", "worst error of 20 sampling steps"],
        lambda row: [
            row["side"], row["variant"], f"{float(row['bytes']) / 1e6:.2f} MB", f"{float(row['error']):.1e}",
            f"{float(row['error_sampling']):.1e}",
        ],
    )  # fmt: skip


def deploy_latency() -> str:
    return _deploy_table(
        "latency",
        ["side", "form", "threads", "one image", "of eager PyTorch, same side"],
        lambda row: [row["side"], row["variant"], row["threads"], f"{float(row['ms']):.2f} ms", _ratio(row)],
    )


def deploy_end_to_end() -> str:
    return _deploy_table(
        "end_to_end",
        ["side", "form", "sampling steps", "FID", "images/s, 2 threads", "time, of the discrete side's fastest"],
        lambda row: [
            row["side"], row["variant"], row["steps"], f"{float(row['fid']):.2f}",
            f"{float(row['images_per_second']):.1f}", _ratio(row),
        ],
    )  # fmt: skip


def deploy_sampling() -> str:
    """A row per form, a column per number of steps."""
    own = _deploy("sampling")
    if not own:
        return "*Not measured yet: `python benchmarks/deploy.py … --only sampling`.*"
    counts = sorted({int(row["steps"]) for row in own})
    forms: dict[tuple[str, str], dict[int, str]] = {}
    for row in own:
        forms.setdefault((row["side"], row["variant"]), {})[int(row["steps"])] = f"{float(row['fid']):.2f}"
    head = ["side", "form", *(f"FID, {n} steps" for n in counts)]
    return table(head, [[*form, *(fids.get(n, "–") for n in counts)] for form, fids in forms.items()])


def deploy_operators() -> str:
    return _deploy_table(
        "operators",
        ["side", "form", "operator", "time an image", "share"],
        lambda row: [
            row["side"], row["variant"], f"`{row['operator']}`", f"{float(row['ms']):.2f} ms",
            f"{float(row['ratio']):.0%}",
        ],
    )  # fmt: skip


def deploy_quality() -> str:
    return _deploy_table(
        "quality",
        ["side", "form", "validation loss", "FID (small classifier)", "samples"],
        lambda row: [
            row["side"], row["variant"], f"{float(row['validation_loss']):.4f}", f"{float(row['fid']):.2f}",
            row["samples"],
        ],
    )  # fmt: skip


def deploy_steps() -> str:
    return _deploy_table(
        "solver_steps",
        ["solver steps", "form", "validation loss", "worst error of 20 sampling steps"],
        lambda row: [
            row["solver_steps"], row["variant"], f"{float(row['validation_loss']):.4f}",
            f"{float(row['error_sampling']):.1e}",
        ],
    )  # fmt: skip


def deploy_quantization_aware() -> str:
    names = {
        "ours": "as trained",
        "finetuned": "fine-tuned in float32",
        "finetuned-aware": "fine-tuned with the rounding of int8",
    }

    def line(row: dict[str, str]) -> list[Any]:
        name, precision = row["variant"].split()
        return [names[name], precision, f"{float(row['validation_loss']):.4f}", f"{float(row['fid']):.2f}"]

    head = ["model", "ONNX file", "validation loss", "FID (small classifier)"]
    return _deploy_table("quantization_aware", head, line)


def deploy_float_layers() -> str:
    return _deploy_table(
        "float_layers",
        ["convolutions", "size", "error of a prediction, root mean square", "validation loss"],
        lambda row: [
            row["variant"], f"{float(row['bytes']) / 1e6:.2f} MB", f"{float(row['error']):.4f}",
            f"{float(row['validation_loss']):.4f}",
        ],
    )  # fmt: skip


def deploy_pruning() -> str:
    def line(row: dict[str, str]) -> list[Any]:
        before = row.get("validation_loss_before_finetuning")
        return [
            row["variant"], f"{int(row['parameters']):,}", f"{int(row['macs']) / 1e6:,.1f} M", _ratio(row),
            f"{float(before):.4f}" if before else "–", f"{float(row['validation_loss']):.4f}",
            f"{float(row['fid']):.2f}",
        ]  # fmt: skip

    head = ["model", "parameters", "MACs", "latency, eager, 1 thread", "validation loss as pruned", "fine-tuned", "FID"]
    return _deploy_table("pruning", head, line)


def restoration(verb: str) -> str:
    """What the models of the package reach, a line per set and strength of noise or scale."""
    key, before = ("sigma", "noisy") if verb == "denoise" else ("scale", "bicubic")
    body = [
        [
            f"`{row['model']}`",
            row["data"],
            f"{float(row[key]):g}",
            f"{float(row['input_psnr']):.2f}",
            f"**{float(row['psnr']):.2f}**",
            f"{float(row['ssim']):.4f}",
            f"{int(row['parameters']) / 1e3:.0f} k",
        ]
        for row in rows("restoration")
        if row["model"].startswith(verb)
    ]
    return table(["model", "set", key, f"PSNR, {before}", "PSNR, dB", "SSIM", "parameters"], body)


def _not_yet(name: str, command: str) -> str | None:
    """What stands in place of a table that has no rows yet."""
    return None if (RESULTS / f"{name}.csv").is_file() else f"*Not measured yet: `{command}`.*"


def restoration_sides() -> str:
    if missing := _not_yet("restoration-sides", "python benchmarks/restoration.py sides"):
        return missing
    everything = rows("restoration-sides")
    body = []
    for side in dict.fromkeys(row["side"] for row in everything):
        own = [row for row in everything if row["side"] == side]
        body.append([
            side,
            f"{int(own[0]['parameters']) / 1e3:.0f} k",
            f"{float(own[0]['macs_per_pixel']) / 1e3:.1f} k",
            *(f"{float(row['psnr']):.2f}" for row in own),
            f"{float(own[0]['megapixels_per_second']):.2f}",
            f"{float(own[0]['latency_ratio']):.0%}",
            f"{int(own[0]['peak_memory_bytes']) / 2**20:.0f} MiB",
        ])  # fmt: skip
    sigmas = [f"PSNR, sigma {float(row['sigma']):g}" for row in everything if row["side"] == everything[0]["side"]]
    head = ["side", "parameters", "MACs per pixel", *sigmas, "megapixels/s", "latency", "peak memory, 481x321"]
    return table(head, body)


def restoration_noising() -> str:
    everything = rows("restoration-noising")
    steps = list(dict.fromkeys(row["step"] for row in everything))
    body = []
    for side, mode in dict.fromkeys((row["side"], row["mode"]) for row in everything):
        own = {row["step"]: row for row in everything if (row["side"], row["mode"]) == (side, mode)}
        body.append([side, mode, *(f"{float(own[s]['psnr']):.2f} / {float(own[s]['ssim']):.3f}" for s in steps)])
    first = {row["step"]: row for row in everything}
    noisy = [f"{float(first[s]['input_psnr']):.2f} / {float(first[s]['input_ssim']):.3f}" for s in steps]
    return table(["PSNR, dB / SSIM", "mode", *(f"step {s}" for s in steps)], [["noisy", "–", *noisy], *body])


def restoration_photograph() -> str:
    if missing := _not_yet("restoration-photograph", "python benchmarks/restoration.py photograph"):
        return missing
    body = [
        [f"`cunet {row['verb']}`", row["input"], row["output"], f"{int(row['process_peak_bytes']) / 2**20:,.0f} MiB",
         f"{float(row['seconds']):.0f} s"]
        for row in rows("restoration-photograph")
    ]  # fmt: skip
    return table(["command", "grey image", "result", "most memory of the process", "time, shared machine"], body)


TABLES: dict[str, Callable[[], str]] = {
    "solver-loops": solver_loops,
    "presets": presets, "gradients": gradients, "accuracy": accuracy, "targets": targets, "runs": runs,
    "claims": claims, "summary": summary, "search": search, "faults": faults, "loading": loading,
    "deploy-exports": deploy_exports,
    "deploy-latency": deploy_latency, "deploy-sampling": deploy_sampling, "deploy-end-to-end": deploy_end_to_end,
    "deploy-operators": deploy_operators,
    "deploy-quality": deploy_quality, "deploy-steps": deploy_steps, "deploy-pruning": deploy_pruning,
    "deploy-quantization-aware": deploy_quantization_aware,
    "deploy-float-layers": deploy_float_layers, "restoration-denoise": partial(restoration, "denoise"),
    "restoration-upscale": partial(restoration, "upscale"), "restoration-sides": restoration_sides,
    "restoration-noising": restoration_noising, "restoration-photograph": restoration_photograph,
}  # fmt: skip
# folders of `results/` that `cunet compare` wrote
for _name in ("compare-mnist", "compare-scenes", "compare-paper", "compare-costs64"):
    TABLES[f"{_name}-verdicts"] = partial(comparison_verdicts, _name)
    TABLES[f"{_name}-costs"] = partial(comparison_costs, _name)
    TABLES[f"{_name}-quality"] = partial(comparison_quality, _name)
MARKED = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def renewed(page: Path) -> str:
    return MARKED.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", page.read_text(encoding="utf-8"))


def main() -> int:
    stale = [page for page in PAGES if renewed(page) != page.read_text(encoding="utf-8")]
    if "--check" in sys.argv:
        for page in stale:
            print(f"{page.relative_to(ROOT)} is not up to date: run python benchmarks/tables.py")
        return 1 if stale else 0
    for page in stale:
        page.write_text(renewed(page), encoding="utf-8")
        print(f"renewed {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
