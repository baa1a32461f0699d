"""The tables of `docs/app.md`: what the page of `cunet app` costs."""

from pages.table import Spec, Table, rows

TABLES: dict[str, Table] = {
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
}
