"""The tables of `docs/conditions.md`: models with classes and texts."""

from pages.table import Spec, Table, rows

TABLES: dict[str, Table] = {
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
}
