"""The tables of `docs/latents.md`: models of latents beside models of pixels."""

from pages.table import Spec, Table, rows

TABLES: dict[str, Table] = {
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
}
