"""The tables of `docs/export.md`: solver steps in an exported graph."""

from pages.table import Spec, Table, ratio, rows

TABLES: dict[str, Table] = {
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
}
