"""Writes the tables of README and docs from the rows in `benchmarks/results`: no figure is typed by hand.

python benchmarks/tables.py           # rewrite what stands between the markers `<!-- table NAME -->` and `<!-- end -->`
python benchmarks/tables.py --check   # exit 1 if a page is not up to date (a test runs this)

Most tables are a `Spec`: where its rows come from, and for each column its heading and what it shows of a row.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from claims import claims

from continuous_unet.comparison.formatting import figure, kid, markdown_table, scaled, timing
from continuous_unet.comparison.rows import SideRow, read_csv

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


class Number(float):
    """A number that is shown as it stands in the file, unless a format says otherwise."""

    def __new__(cls, text: str) -> "Number":
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        return format(float(self), spec) if spec else self.text


def number(text: str) -> Any:
    try:
        return Number(text)
    except ValueError:
        return text


def rows(name: str, **wanted: str) -> list[dict[str, Any]]:
    """Returns the rows of a CSV file, numbers as such; only those with the wanted values."""
    found = [row for row in read_csv(RESULTS / f"{name}.csv") if all(row[k] == v for k, v in wanted.items())]
    return [{key: number(text) for key, text in row.items()} for row in found]


@dataclass(frozen=True)
class Spec:
    """A table."""

    rows: Callable[[], Iterable[Any]]
    columns: dict[str, str | Callable[[Any], object]]
    """By heading: a format of the row's values, such as `{ms:.2f} ms`, or a function of the row."""
    missing: str = ""
    """The command that measures the rows, if there may be none yet."""

    def __call__(self) -> str:
        try:
            body = list(self.rows())
        except FileNotFoundError:
            body = []
        if not body and self.missing:
            return f"*Not measured yet: `python benchmarks/{self.missing}`.*"
        show = [partial(str.format_map, c) if isinstance(c, str) else c for c in self.columns.values()]
        return markdown_table(list(self.columns), [[cell(row) for cell in show] for row in body])


# ------------------------------------------------------------------------------------------------- models and solvers


def presets() -> Iterator[dict[str, Any]]:
    sides = rows("presets")
    for row in sides:
        yield {**row, "first": sides[0]}


def few_steps() -> Iterator[dict[str, Any]]:
    """Rows with their FID as a share of the best one of the teacher at 50 evaluations, both above the floor."""
    found = rows("few-steps")
    for row in found:
        best = [r["fid"] - r["floor"] for r in found if r["data"] == row["data"] and r["evaluations"] == 50]
        yield {**row, "share": (row["fid"] - row["floor"]) / min(best) if best else None}


ENOUGH = 1.1
"""A number of evaluations counts as the best one if its FID above the floor is at most this multiple of the least."""


def end_to_end(distilled: bool) -> Iterator[dict[str, Any]]:
    """The U-Net at its best, and the fastest of ours with an FID that is as low; the other way round if none is."""
    found = rows("end-to-end")
    for row in found:
        row["excess"] = row["fid"] - row["floor"]
    theirs = [row for row in found if row["network"] == "unet" and (row["distilled"] == "True") == distilled]
    ours = [row for row in found if row["network"] == "ours" and (row["distilled"] == "True" or not distilled)]
    for first, second in ((theirs, ours), (ours, theirs)):
        least = min(row["excess"] for row in first)
        best = max((r for r in first if r["excess"] <= ENOUGH * least), key=lambda r: r["images_per_second"])
        equal = [row for row in second if row["excess"] <= ENOUGH * best["excess"]]
        if equal:
            fastest = max(equal, key=lambda row: row["images_per_second"])
            unet, own = (best, fastest) if first is theirs else (fastest, best)
            yield from ({**row, "times": row["images_per_second"] / unet["images_per_second"]} for row in (unet, own))
            return


END_TO_END: dict[str, Any] = {
    "model": "{model}",
    "sampler": "{sampler}",
    "evaluations": "{evaluations}",
    "FID above the floor": "{excess:.3g}",
    "GMACs of an image": lambda row: f"{row['macs'] * row['evaluations'] / 1e9:.2f}",
    "ms an evaluation, eager / compiled / ONNX": "{eager_ms:.2f} / {compiled_ms:.2f} / {onnx_ms:.2f}",
    "images/s": "{images_per_second:.1f}",
    "of the U-Net": "{times:.1f} ×",
}


def planning() -> Iterator[dict[str, Any]]:
    """A row for each side and warm start: the means over the seeds, with the learning rate that is best for it."""
    names = {"ours": "ours", "large": "Diffusion Policy's U-Net", "cut": "that U-Net, cut to our cost"}
    found = rows("planning")
    for side, warm in dict.fromkeys((row["side"], row["warm_start"]) for row in found):
        same = [row for row in found if (row["side"], row["warm_start"]) == (side, warm)]
        keys = ("success", "time_steps", "plan_ms", "plans_per_second", "parameters", "learning_rate")
        by_rate = {
            row["learning_rate"]: [one for one in same if one["learning_rate"] == row["learning_rate"]] for row in same
        }
        means = [
            {key: sum(row[key] for row in runs) / len(runs) for key in keys} | {"runs": len(runs)}
            for runs in by_rate.values()
        ]
        best = max(means, key=lambda mean: (mean["success"], -mean["time_steps"]))
        yield {"side": names[side] + (f", warm start {warm}" if warm else ""), "rates": len(means), **best}


def video() -> Iterator[dict[str, Any]]:
    """A row for each side: the means over the seeds."""
    names = {"ours": "ours", "control": "the weight-tied control", "discrete": "discrete 3-D U-Net"}
    found = rows("video")
    for side in dict.fromkeys(row["side"] for row in found):
        same = [row for row in found if row["side"] == side]
        keys = ("parameters", "macs", "training_steps", "validation_loss", "frame_fid", "frame_fid_of_real")
        means = {key: sum(row[key] for row in same) / len(same) for key in keys}
        yield {"side": names[side], "runs": len(same), **means}


def of_first(key: str, unit: str, digits: int) -> Callable[[dict[str, Any]], str]:
    return lambda row: scaled(row[key], unit, digits, row["first"][key])


def gradients() -> Iterator[dict[str, Any]]:
    training = rows("solvers-training")
    for row in training:
        if row["num_steps"] == 4 and row["t1"] == 4:
            same = ("field", "method", "gradient")
            (long,) = (r for r in training if r["num_steps"] == 64 and all(r[k] == row[k] for k in same))
            yield {**row, "long": long["saved_bytes"], "other": row["library"] == "torchdiffeq"}


def accuracy() -> str:
    everything = rows("solvers-accuracy")
    everything = [row for row in everything if row["problem"] == everything[0]["problem"]]
    body: list[list[Any]] = []
    for method in dict.fromkeys(row["method"] for row in everything):
        own = [row for row in everything if row["method"] == method]
        if "dopri5" in method:
            for row in own:
                error = f"{row['error']:.1e} at {row['nfe']} evaluations"
                body.append([f"{method} ({row['library']})", "", "", "", error])
        else:
            errors = {int(row["nfe"]): f"{row['error']:.1e}" for row in own}
            body.append([f"`{method}`", *(errors[n] for n in (4, 8, 16, 32))])
    return markdown_table(["method", "4 evaluations", "8", "16", "32"], body)


def runs() -> Iterator[dict[str, Any]]:
    for name in ("digits-tiny", "mnist-small"):
        facts = json.loads((RESULTS / name / "run.json").read_text(encoding="utf-8"))
        lines = (RESULTS / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        speeds = sorted(r["images_per_second"] for r in records if "images_per_second" in r)
        yield {
            **facts["data"],
            "name": name.split("-")[0],
            "num_parameters": facts["num_parameters"],
            "images_seen": [r for r in records if "loss" in r][-1]["images_seen"],
            "speed": speeds[len(speeds) // 2],
            "validation": [r["validation_loss"] for r in records if "validation_loss" in r][-1],
        }


def search() -> Iterator[dict[str, Any]]:
    """Yields variants of the block by validation loss, those of one size together."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows("search"):
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


# --------------------------------------------------------------------------------------------------------- comparisons


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


def comparison_rows(name: str) -> list[dict[str, str]]:
    return read_csv(RESULTS / name / "results.csv")


# ----------------------------------------------------------------------------------------- faults, exports, restoration

FAULTS = {
    "kills": "Kills", "disk": "Full and read-only disks", "flips": "Damaged checkpoints", "signals": "Signals",
    "processes": "Several processes", "images": "Bad images", "batches": "Batches of photographs",
    "models": "Hostile files", "arguments": "Random arguments", "long": "Long runs",
}  # fmt: skip


def faults() -> str:
    parts = rows("faults")
    body = []
    for part, title in FAULTS.items():
        own = [row for row in parts if row["part"] == part]
        trials, bad = (sum(int(row[k]) for row in own) for k in ("trials", "bad"))
        body.append([f"**{title}**", f"**{trials:,}**", f"**{bad}**", f"`python benchmarks/faults --only {part}`"])
        body += [[row["case"], f"{int(row['trials']):,}", row["bad"], row["figures"]] for row in own]
    return markdown_table(["what was done", "times", "lost or wrong", "measured"], body)


def ratio(row: dict[str, Any]) -> str:
    return "{ratio:.2f} ({ratio_p25:.2f} to {ratio_p75:.2f})".format_map(row)


def megabytes(row: dict[str, Any]) -> str:
    return scaled(row["bytes"], "M", 2) + "B"


def millions(key: str, digits: int) -> Callable[[dict[str, Any]], str]:
    return lambda row: scaled(row[key], "M", digits)


def deploy(part: str, columns: dict[str, str | Callable[[Any], object]]) -> Spec:
    return Spec(lambda: rows("deploy", part=part), columns, f"deploy.py … --only {part}")


SIDE = {"side": "{side}", "form": "{variant}"}


def deploy_sampling() -> str:
    """A row per form, a column per number of steps."""
    own = rows("deploy", part="sampling")
    counts = sorted({int(row["steps"]) for row in own})
    forms: dict[tuple[str, str], dict[int, str]] = {}
    for row in own:
        forms.setdefault((row["side"], row["variant"]), {})[int(row["steps"])] = f"{row['fid']:.2f}"
    head = ["side", "form", *(f"FID, {n} steps" for n in counts)]
    return markdown_table(head, [[*form, *(fids.get(n, "–") for n in counts)] for form, fids in forms.items()])


TRAINED = {
    "ours": "as trained",
    "finetuned": "fine-tuned in float32",
    "finetuned-aware": "fine-tuned with the rounding of int8",
}


def restoration(verb: str) -> Spec:
    """What the models of the package reach, a line per set and strength of noise or factor."""
    key, before = ("sigma", "noisy") if verb == "denoise" else ("scale", "bicubic")
    return Spec(
        lambda: (row for row in rows("restoration") if row["model"].startswith(verb)),
        {
            "model": "`{model}`",
            "set": "{data}",
            key: f"{{{key}:g}}",
            f"PSNR, {before}": "{input_psnr:.2f}",
            "PSNR, dB": "**{psnr:.2f}**",
            "SSIM": "{ssim:.4f}",
            "parameters": lambda row: scaled(row["parameters"], "k", 0),
        },
    )


def by_sigma(name: str, label: str) -> list[dict[str, Any]]:
    """Returns one row for each value of `label`, with the PSNR at each sigma as `sigma 15` and so on."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows(name):
        key = tuple(row[part] for part in label.split())
        found.setdefault(key, dict(row))[f"sigma {row['sigma']:g}"] = row["psnr"]
    return list(found.values())


PSNRS: dict[str, str | Callable[[Any], object]] = {f"PSNR, sigma {n}": f"{{sigma {n}:.2f}}" for n in (15, 25, 50)}


def restoration_noising() -> str:
    everything = rows("restoration-noising")
    steps = list(dict.fromkeys(row["step"] for row in everything))
    body = []
    for side, mode in dict.fromkeys((row["side"], row["mode"]) for row in everything):
        own = {row["step"]: row for row in everything if (row["side"], row["mode"]) == (side, mode)}
        body.append([side, mode, *(f"{float(own[s]['psnr']):.2f} / {float(own[s]['ssim']):.3f}" for s in steps)])
    first = {row["step"]: row for row in everything}
    noisy = [f"{float(first[s]['input_psnr']):.2f} / {float(first[s]['input_ssim']):.3f}" for s in steps]
    return markdown_table(["PSNR, dB / SSIM", "mode", *(f"step {s}" for s in steps)], [["noisy", "–", *noisy], *body])


def elastic(data: str) -> str:
    """Returns the loss of elastic models beside that of models trained at each number of solver steps alone."""
    found = {(r["kind"], r["seed"], r["solver_steps"], r["trained"]): float(r["loss"]) for r in rows(f"elastic-{data}")}
    lines = []
    for kind, seed, steps in dict.fromkeys(key[:3] for key in found):
        alone, both = (found.get((kind, seed, steps, trained)) for trained in ("alone", "elastic"))
        if alone is not None and both is not None:
            change = f"{both / alone - 1:+.1%}"
            lines.append([str(kind), str(seed), str(steps), f"{alone:.4f}", f"{both:.4f}", change])
    return markdown_table(["model", "seed", "solver steps", "trained alone", "elastic", "difference"], lines)


TABLES: dict[str, Callable[[], str]] = {
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
        lambda: rows("latency"),
        {
            "threads": "{threads}",
            "preparation": "{preparation}",
            "side": "{side}",
            "time": "{latency_ms:.1f} ms",
            "relative to `UNet2DModel`": "{ratio:.0%} ({ratio_p25:.0%} to {ratio_p75:.0%})",
        },
        missing="latency.py --compiled",
    ),
    "conditions": Spec(
        lambda: rows("conditions", precomputed="True"),
        {
            "condition": lambda row: {"none": "none", "class": "one of 10 classes", "text": "32 tokens of width 128"}[
                row["condition"]
            ],
            "guidance scale": "{guidance_scale}",
            "images at a time": "{batch_size}",
            "parameters": "{parameters:,.0f}",
            "MACs of one image": lambda row: f"{row['macs_per_image'] / 1e6:.1f} M",
            "time of an evaluation": "{latency_ratio:.0%} ({latency_ratio_p25:.0%} to {latency_ratio_p75:.0%})",
        },
        missing="conditions.py",
    ),
    "classes-mnist": Spec(
        lambda: rows("classes-mnist"),
        {
            "images": lambda row: (
                f"guidance {row['guidance']:g}" if row["guidance"] else "real, against other real ones"
            ),
            "recognised as the class asked for": "{class_accuracy:.1%}",
            "FID": "{fid:.3f}",
            "precision": "{precision:.1%}",
            "recall": "{recall:.1%}",
            "coverage": "{coverage:.1%}",
            "evaluations of an image": lambda row: f"{row['evaluations']:g}" if row["evaluations"] else "–",
        },
    ),
    "text-check": Spec(
        lambda: rows("text-check"),
        {
            "drawn scenes": lambda row: (
                {"noisy": "with noise of 5 %", "blurred": "blurred by 0.7 pixels"}.get(row["images"], row["images"])
                + f" ({row['scenes']:,.0f})"
            ),
            "right captions accepted": "{right_accepted:.2%}",
            "wrong captions accepted": "{wrong_accepted:.2%}",
        },
        missing="text.py check",
    ),
    "text-matches": Spec(
        lambda: rows("text-matches"),
        {
            "shapes together": "{pairs}",
            "guidance scale": "{guidance}",
            "samples": "{samples}",
            "samples that match their caption": "{matches:.1%} (± {margin_95:.1%})",
        },
        missing="text.py matches runs/text-scenes",
    ),
    "latents": Spec(
        lambda: rows("latents"),
        {
            "model": "{side}",
            "sampling steps": lambda row: row["sampling_steps"] or "–",
            "FID": "{fid:.1f}",
            "MACs of an image": lambda row: f"{row['macs'] / 1e9:.2f} G" if row["macs"] else "–",
            "seconds": lambda row: f"{row['seconds']:.3f}" if row["seconds"] else "–",
            "of which decoding": lambda row: (
                f"{row['decoding_ms'] / 1000 / row['seconds']:.0%}" if row["macs"] else "–"
            ),
            "PSNR": lambda row: f"{row['psnr']:.2f} dB" if row["psnr"] else "–",
        },
        missing="latents.py",
    ),
    "gradients": Spec(
        gradients,
        {
            "method": "`{method}`",
            "gradient": lambda row: f"`{row['gradient']}`" + " (torchdiffeq)" * row["other"],
            "evaluations, 4 steps": "{nfe}",
            "gradient error": lambda row: f"{row['gradient_error']:.0e}" if row["gradient_error"] else "exact",
            "saved, 4 steps": lambda row: f"{row['saved_bytes'] / 1e6:.1f} MB",
            "saved, 64 steps": lambda row: f"{row['long'] / 1e6:,.1f} MB",
            "time / its backprop": "{time_to_backprop:.2f}",
        },
    ),
    "accuracy": accuracy,
    "targets": Spec(
        lambda: rows("solvers-targets"),
        {
            "target": "{target}",
            "measured": "{measured:.3g}",
            "at most": "{limit:g}",
            "": lambda row: "met" if row["met"] == "True" else "**missed**",
        },
    ),
    "planning": Spec(
        planning,
        {
            "side": "{side}",
            "parameters": millions("parameters", 2),
            "learning rate": "{learning_rate:g} (of {rates})",
            "runs": "{runs}",
            "episodes that reach the target": "{success:.1%}",
            "time steps until then": "{time_steps:.0f}",
            "CPU time of a plan": "{plan_ms:.2f} ms",
            "plans per second": "{plans_per_second:.0f}",
        },
        missing="planning.py measure",
    ),
    "video": Spec(
        video,
        {
            "side": "{side}",
            "parameters": millions("parameters", 2),
            "MACs": millions("macs", 1),
            "runs": "{runs}",
            "training steps": "{training_steps:,.0f}",
            "validation loss": "{validation_loss:.4f}",
            "FID of frames": "{frame_fid:.3f}",
            "of real ones": "{frame_fid_of_real:.3f}",
        },
        missing="video.py compare --folder runs/video",
    ),
    "video-memory": Spec(
        lambda: rows("video-memory"),
        {
            "solver steps": "{solver_steps}",
            "gradient mode": "`{gradient}`",
            "saved for the backward pass": lambda row: scaled(row["saved_for_backward_bytes"], "MiB", 1),
            "peak": lambda row: scaled(row["peak_bytes"], "MiB", 1),
        },
        missing="video.py memory",
    ),
    "few-steps": Spec(
        few_steps,
        {
            "data": "{data}",
            "model": "{model}",
            "sampler": "{sampler}",
            "evaluations": "{evaluations}",
            "GMACs of an image": lambda row: f"{row['macs'] * row['evaluations'] / 1e9:.2f}",
            "FID above the floor": lambda row: f"{row['fid'] - row['floor']:.3g}",
            "of the teacher's best at 50": lambda row: f"{row['share']:.2f}" if row["share"] else "–",
            "recall": lambda row: f"{row['recall']:.2f}" if "recall" in row and row["recall"] != "" else "–",
        },
        missing="distill.py measure",
    ),
    "end-to-end": Spec(partial(end_to_end, False), END_TO_END, missing="end_to_end.py"),
    "end-to-end-distilled": Spec(partial(end_to_end, True), END_TO_END, missing="end_to_end.py"),
    "solver-loops": Spec(
        lambda: rows("solver-loops"),
        {
            "solver steps": "{solver_steps}",
            "in the graph": "{solver}",
            "nodes": "{nodes}",
            "export": "{export_seconds:.0f} s",
            "latency": "{latency_ms:.1f} ms",
            "of eager PyTorch": ratio,
            "error": "{max_error}",
        },
    ),
    "runs": Spec(
        runs,
        {
            "run": "`examples/{name}.yaml`",
            "data": "{num_images:,} images, {image_size}x{image_size}",
            "parameters": "{num_parameters:,}",
            "images seen": "{images_seen:,}",
            "images/s, 2 CPU cores": "{speed:.0f}",
            "validation loss (v)": "{validation:.4f}",
        },
    ),
    "claims": claims,
    "search": Spec(
        search,
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
    "faults": faults,
    "loading": Spec(
        lambda: rows("loading"),
        {
            "workers": "{workers}",
            "images/s read": "{images_per_second}",
            "images/s trained, preset `base`, CPU": "{training_images_per_second}",
            "ratio, median of rounds": "{to_training:.0f}",
        },
    ),
    "threads": Spec(
        lambda: rows("threads"),
        {
            "threads wait": lambda row: {
                "torch": "as torch sets it",
                "passive": "asleep (`OMP_WAIT_POLICY=PASSIVE`)",
                "cunet": "as `cunet` sets it",
            }.get(row["setting"], f"for {row['setting']} spins"),
            "trainings": "{situation}",
            "images/s of each": "{images_per_second} ({least} to {most})",
            "of one alone, as torch sets it": "{to_torch_alone:.0%}",
            "of one alone, with this setting": "{to_own_alone:.0%}",
        },
        missing="threads.py",
    ),
    "loop": Spec(
        lambda: rows("loop"),
        {
            "preset": "`{preset}`",
            "images": "{image_size}x{image_size}, {batch_size} at a time",
            "device": "{device}",
            "precision": lambda row: {"no": "float32"}.get(row["mixed_precision"], row["mixed_precision"]),
            "images/s of `cunet train`": "{images_per_second}",
            "of the bare loop": "{bare_images_per_second}",
            "ratio": ratio,
        },
        missing="loop.py",
    ),
    "deploy-exports": deploy(
        "exports",
        {
            **SIDE,
            "size": megabytes,
            "error of one evaluation": "{error:.1e}",
            "worst error of 20 sampling steps": "{error_sampling:.1e}",
        },
    ),
    "deploy-latency": deploy(
        "latency",
        {**SIDE, "threads": "{threads}", "one image": "{ms:.2f} ms", "of eager PyTorch, same side": ratio},
    ),
    "deploy-end-to-end": deploy(
        "end_to_end",
        {
            **SIDE,
            "sampling steps": "{steps}",
            "FID": "{fid:.2f}",
            "images/s, 2 threads": "{images_per_second:.1f}",
            "time, of the discrete side's fastest": ratio,
        },
    ),
    "deploy-sampling": deploy_sampling,
    "deploy-operators": deploy(
        "operators", {**SIDE, "operator": "`{operator}`", "time an image": "{ms:.2f} ms", "share": "{ratio:.0%}"}
    ),
    "deploy-quality": deploy(
        "quality",
        {
            **SIDE,
            "validation loss": "{validation_loss:.4f}",
            "FID (small classifier)": "{fid:.2f}",
            "samples": "{samples}",
        },
    ),
    "deploy-steps": deploy(
        "solver_steps",
        {
            "solver steps": "{solver_steps}",
            "form": "{variant}",
            "validation loss": "{validation_loss:.4f}",
            "worst error of 20 sampling steps": "{error_sampling:.1e}",
        },
    ),
    "deploy-quantization-aware": deploy(
        "quantization_aware",
        {
            "model": lambda row: TRAINED[row["variant"].split()[0]],
            "ONNX file": lambda row: row["variant"].split()[1],
            "validation loss": "{validation_loss:.4f}",
            "FID (small classifier)": "{fid:.2f}",
        },
    ),
    "deploy-float-layers": deploy(
        "float_layers",
        {
            "convolutions": "{variant}",
            "size": megabytes,
            "error of a prediction, root mean square": "{error:.4f}",
            "validation loss": "{validation_loss:.4f}",
        },
    ),
    "deploy-pruning": deploy(
        "pruning",
        {
            "model": "{variant}",
            "parameters": "{parameters:,.0f}",
            "MACs": millions("macs", 1),
            "latency, eager, 1 thread": ratio,
            "validation loss as pruned": lambda row: (
                f"{row['validation_loss_before_finetuning']:.4f}" if row["validation_loss_before_finetuning"] else "–"
            ),
            "fine-tuned": "{validation_loss:.4f}",
            "FID": "{fid:.2f}",
        },
    ),
    "restoration-denoise": restoration("denoise"),
    "restoration-upscale": restoration("upscale"),
    "app": Spec(
        lambda: rows("app"),
        {
            "images": "{image_size}x{image_size}",
            "evaluations": "{evaluations}",
            "threads": "{threads}",
            "from a stroke to its picture": lambda row: (
                f"{row['milliseconds']:.0f} ms ({row['milliseconds_p25']:.0f} to {row['milliseconds_p75']:.0f})"
            ),
            "bytes until the first picture": lambda row: (
                f"{row['bytes_page'] / 1e6:.2f} + {row['bytes_runtime'] / 1e6:.1f} + {row['bytes_model'] / 1e6:.1f} MB"
            ),
        },
        "app.py RUN --node-modules node_modules",
    ),
    "restoration-peers": Spec(
        lambda: by_sigma("restoration-peers", "data method"),
        {
            "set": "{data}, {images} images",
            "method": "{method}",
            "noise level": lambda row: "unknown" if row["blind"] == "True" else "given",
            **PSNRS,
            "CPU seconds per megapixel": "{cpu_seconds_per_megapixel:.1f}",
        },
        "restoration.py peers",
    ),
    "restoration-jpeg": Spec(
        lambda: rows("restoration-jpeg"),
        {
            "model": "`{model}`",
            "set": "{data}",
            "JPEG quality": lambda row: row["jpeg"] or "not compressed",
            "PSNR, bicubic": "{input_psnr:.2f}",
            "PSNR, dB": "{psnr:.2f}",
            "gain, dB": lambda row: f"{row['psnr'] - row['input_psnr']:+.2f}",
        },
        "restoration.py jpeg",
    ),
    "restoration-sides": Spec(
        lambda: by_sigma("restoration-sides", "side"),
        {
            "side": "{side}",
            "parameters": lambda row: scaled(row["parameters"], "k", 0),
            "MACs per pixel": lambda row: scaled(row["macs_per_pixel"], "k", 1),
            **PSNRS,
            "megapixels/s": "{megapixels_per_second:.2f}",
            "latency": "{latency_ratio:.0%}",
            "peak memory, 481x321": lambda row: scaled(row["peak_memory_bytes"], "MiB", 0),
        },
        "restoration.py sides",
    ),
    "restoration-noising": restoration_noising,
    "restoration-photograph": Spec(
        lambda: rows("restoration-photograph"),
        {
            "command": "`cunet {verb}`",
            "grey image": "{input}",
            "result": "{output}",
            "most memory of the process": lambda row: scaled(row["process_peak_bytes"], "MiB", 0),
            "time, shared machine": "{seconds:.0f} s",
        },
        "restoration.py photograph",
    ),
}
for _name in ("compare-mnist", "compare-scenes", "compare-paper", "compare-costs64"):
    TABLES |= comparison_tables(_name)
for _name in ("digits", "mnist"):
    TABLES[f"elastic-{_name}"] = partial(elastic, _name)
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
