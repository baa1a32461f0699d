"""The tables of `docs/deploy.md`: exported, quantised and pruned models."""

from collections.abc import Callable
from typing import Any

from pages.table import Spec, Table, millions, ratio, rows

from continuous_unet.comparison.formatting import markdown_table, scaled


def megabytes(row: dict[str, Any]) -> str:
    return scaled(row["bytes"], "M", 2) + "B"


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


TABLES: dict[str, Table] = {
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
}
