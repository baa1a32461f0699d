"""The tables of `docs/reliability.md`: the fault campaign, and the speed of reading images."""

from pages.table import Spec, Table, rows

from continuous_unet.comparison.formatting import markdown_table

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


TABLES: dict[str, Table] = {
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
}
