"""What the project claims, beside what was measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from continuous_unet.comparison.results import SavedMemory, SolverStepsLosses
from continuous_unet.comparison.rows import SideRow, Spread, Timing

LIMITS = {"small": {"parameters": 0.25, "macs": 0.35}, "base": {"parameters": 0.25, "macs": 0.30}}
"""Goals of the project relative to the usual-size U-Net: `small` up to 32 pixels, `base` above."""


@dataclass(frozen=True)
class Verdict:
    """One claim."""

    claim: str
    target: str
    measured: str
    verdict: str
    """`met`, `missed`, `level`, or nothing."""


def make_verdicts(
    rows: Sequence[SideRow],
    image_size: int,
    memory: Sequence[SavedMemory],
    solver_steps: Mapping[str, Sequence[SolverStepsLosses]],
) -> list[Verdict]:
    """Judges the side `ours` against the others.

    Sides that share a seed share the order of the images, their noise and the timesteps, so losses are compared seed by
    seed: `level` means that the seeds disagree.

    Args:
        rows: of all sides.
        image_size: side of the images in pixels.
        memory: of all sides.
        solver_steps: losses of trained models by side; empty if nothing was trained.
    """
    by_name = {row.side: row for row in rows}
    ours = by_name.get("ours")
    if ours is None or len(rows) == 1:
        why = "the side `ours` was not compared" if ours is None else "there was no other side"
        return [Verdict(f"none: {why}", "", "", "")]
    verdicts: list[Verdict | None] = []
    if (discrete := by_name.get("discrete")) is not None:
        limits = LIMITS["small" if image_size <= 32 else "base"]
        frugal = least_saved(memory).get("ours")
        saved = discrete.saved_for_backward_bytes
        verdicts += [
            _share(
                "parameters, relative to the usual-size U-Net",
                ours.parameters,
                discrete.parameters,
                limits["parameters"],
            ),
            _share("MACs per forward pass", ours.macs_per_forward, discrete.macs_per_forward, limits["macs"]),
            _latency("eager", ours.latency_eager, discrete.latency_eager),
            _latency("compiled", ours.latency_compiled, discrete.latency_compiled),
            _share("bytes saved for backward, as trained", ours.saved_for_backward_bytes, saved, 0.2),
            _share("bytes saved for backward, most frugal exact gradient", frugal, saved, 0.2),
            _loss("validation loss, equal images", "no worse", ours, discrete),
            _fid("FID at the end of training", ours, discrete),
            _loss("validation loss, equal wall-clock", "clearly better", ours, discrete, "time"),
        ]
    for name, what in (("discrete-parameters", "parameters"), ("discrete-macs", "MACs")):
        claim = f"validation loss, compared with the U-Net cut to our {what}"
        verdicts.append(_loss(claim, "better", ours, by_name.get(name)))
    if (control := by_name.get("control")) is not None:
        verdicts += [
            _loss("validation loss, compared with the weight-tied control", "no worse", ours, control),
            _fid("FID, compared with the weight-tied control", ours, control),
            _sensitivity(*(steps_sensitivity(solver_steps.get(name, ())) for name in ("ours", "control"))),
            _exact_memory(*(least_saved(memory, 8).get(name) for name in ("ours", "control"))),
        ]
    return [verdict for verdict in verdicts if verdict is not None]


def _met(condition: bool) -> str:
    return "met" if condition else "missed"


def _share(claim: str, mine: float | None, theirs: float | None, limit: float) -> Verdict | None:
    if mine is None or theirs is None:
        return None
    return Verdict(claim, f"at most {limit:.0%}", f"{mine / theirs:.1%}", _met(mine / theirs <= limit))


def _latency(kind: str, mine: Timing | None, theirs: Timing | None) -> Verdict | None:
    if mine is None or theirs is None:
        return None
    return _share(f"latency per forward pass, {kind}", mine.ratio, theirs.ratio, 0.2)


def _loss(claim: str, target: str, ours: SideRow, other: SideRow | None, equal: str = "images") -> Verdict | None:
    return _better(claim, target, *(_figure(row, f"validation_loss_equal_{equal}") for row in (ours, other)))


def _fid(claim: str, ours: SideRow, other: SideRow) -> Verdict | None:
    return _better(claim, "no worse", *(_figure(row, "fid") for row in (ours, other)))


def _figure(row: SideRow | None, name: str) -> Spread | None:
    return None if row is None or row.quality is None else getattr(row.quality, name)


def _better(claim: str, target: str, mine: Spread | None, theirs: Spread | None) -> Verdict | None:
    if mine is None or theirs is None:
        return None
    difference = mine.mean / theirs.mean - 1
    pairs = list(zip(mine.seeds, theirs.seeds, strict=False))
    won = sum(ours <= other for ours, other in pairs)
    if difference <= 0:
        verdict = "met" if won == len(pairs) or target == "no worse" else "level"
    else:
        verdict = "missed" if won == 0 else "level"
    seeds = f", in {won} of {len(pairs)} seeds" if len(pairs) > 1 else ""
    return Verdict(claim, target, f"{mine.mean:.4g} against {theirs.mean:.4g} ({difference:+.1%}{seeds})", verdict)


def _sensitivity(mine: float | None, theirs: float | None) -> Verdict | None:
    if mine is None or theirs is None:
        return None
    return Verdict(
        "worst loss over 1 to 8 solver steps, relative to the trained number of steps (control in brackets)",
        "flatter than the control",
        f"{mine:.2f} x ({theirs:.2f} x)",
        _met(mine < theirs),
    )


def _exact_memory(mine: float | None, theirs: float | None) -> Verdict | None:
    if not mine or not theirs:
        return None
    claim = "memory for an exact gradient through 8 solver steps, relative to the control with checkpointing"
    return Verdict(claim, "less", f"{mine / theirs:.1%}", _met(mine < theirs))


def least_saved(memory: Sequence[SavedMemory], solver_steps: int = 2) -> dict[str, int]:
    """Returns the bytes of the most frugal exact gradient mode, by side, with a number of solver steps."""
    least: dict[str, int] = {}
    for row in memory:
        if row.solver_steps in (None, solver_steps):
            least[row.side] = min(row.saved_bytes, least.get(row.side, row.saved_bytes))
    return least


def steps_sensitivity(rows: Sequence[SolverStepsLosses]) -> float | None:
    """Returns the worst validation loss over numbers of solver steps, relative to that with the trained number."""
    losses = {row.solver_steps: row.validation_loss or math.inf for row in rows}
    return max(losses.values()) / losses[rows[0].trained_with] if rows and rows[0].trained_with in losses else None
