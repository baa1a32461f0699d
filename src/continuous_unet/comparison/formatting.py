"""Figures of a comparison as text, for the report and for the tables of the documentation."""

from collections.abc import Sequence

from continuous_unet.comparison.rows import Spread, Timing

MISSING = "–"
"""Stands for what was not measured."""
SCHEDULER_NAMES = {"ddim": "DDIM", "dpm++": "DPM-Solver++", "euler": "Euler", "own": "its own sampler"}


def scaled(value: float, unit: str, digits: int, reference: float | None = None) -> str:
    """Returns a value with its unit, `M`, `G` or `MiB`, and its percentage of a reference in brackets."""
    size = {"k": 1e3, "M": 1e6, "G": 1e9, "MiB": 2**20}[unit]
    text = f"{value / size:,.{digits}f} {unit}"
    return text if reference is None else f"{text} ({value / reference:.0%})"


def timing(time: Timing | None, milliseconds: bool = False) -> str:
    """Returns a latency relative to the reference with the middle half of the rounds, and perhaps its milliseconds."""
    if time is None:
        return MISSING
    spread = f"{time.ratio_p25:.0%} to {time.ratio_p75:.0%}"
    return f"{time.ms:.1f} ms ({time.ratio:.0%}; {spread})" if milliseconds else f"{time.ratio:.0%} ({spread})"


def figure(value: Spread | None, digits: int, *, seeds: bool = True) -> str:
    """Returns a mean, with its range over seeds if there is one."""
    if value is None:
        return MISSING
    spread = f" ({value.low:.{digits}f} to {value.high:.{digits}f})" if seeds and value.low < value.high else ""
    return f"{value.mean:.{digits}f}{spread}"


def kid(mean: Spread | float | None, deviation: float, digits: int) -> str:
    """Returns a KID times 1000, with its standard deviation over subsets of the samples."""
    if mean is None:
        return MISSING
    mean = mean.mean if isinstance(mean, Spread) else mean
    return f"{mean * 1000:.{digits}f} ± {deviation * 1000:.{digits}f}"


def markdown_table(head: list[str], body: Sequence[Sequence[object]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
