"""The tables of `docs/speed.md`: threads, compilation, and the training loop."""

from pages.table import Spec, Table, ratio, rows

TABLES: dict[str, Table] = {
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
    "compile": Spec(
        lambda: rows("compile"),
        {
            "compiled": lambda row: {
                "none": "nothing",
                "blocks": "the repeated blocks (`--compile`)",
                "model": "the whole model (`--compile --compile-scope model`)",
            }[row["compiled"]],
            "first step, s": "{first_step_seconds:.0f}",
            "later steps, s": "{step_seconds:.3f}",
            "of nothing compiled": "{of_none:.0%} ({least:.0%} to {most:.0%})",
        },
        missing="compile.py",
    ),
}
