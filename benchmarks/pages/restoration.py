"""The tables of `docs/restoration.md`: the models of the package that restore photographs."""

from collections.abc import Callable
from typing import Any

from pages.table import Spec, Table, rows

from continuous_unet.comparison.formatting import markdown_table, scaled


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


TABLES: dict[str, Table] = {
    "restoration-denoise": restoration("denoise"),
    "restoration-upscale": restoration("upscale"),
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
