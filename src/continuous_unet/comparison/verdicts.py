"""The claims of the project, and whether the measurements meet them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from continuous_unet.comparison.results import SavedMemory, SolverStepsLosses
from continuous_unet.comparison.rows import SideRow, Spread, Timing

LIMITS = {"small": {"parameters": 0.25, "macs": 0.35}, "base": {"parameters": 0.25, "macs": 0.30}}
"""Goals of the project relative to the usual-size U-Net: `small` up to 32 pixels, `base` above."""

STEPS_CLAIM = "worst loss over 1 to 8 solver steps, relative to the trained number of steps (control in brackets)"
MEMORY_CLAIM = "memory for an exact gradient through 8 solver steps, relative to the control with checkpointing"
Figure = Callable[[SideRow], float | Spread | None]
"""Returns what a claim is about; None if it was not measured."""


@dataclass(frozen=True)
class Verdict:
    """One claim, and what was measured of it."""

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
    sides = {row.side: row for row in rows}
    if "ours" not in sides or len(rows) == 1:
        why = "there was no other side" if "ours" in sides else "the side `ours` was not compared"
        return [Verdict(f"none: {why}", "", "", "")]
    limits = LIMITS["small" if image_size <= 32 else "base"]
    frugal, exact = least_saved(memory), least_saved(memory, 8)

    def frugal_bytes(row: SideRow) -> int | None:
        return frugal.get("ours") if row.side == "ours" else row.saved_for_backward_bytes

    def sensitivity(row: SideRow) -> float | None:
        return steps_sensitivity(solver_steps.get(row.side, ()))

    loss, fid = _quality("validation_loss_equal_images"), _quality("fid")
    claims: list[tuple[str, str, float | str, Figure]] = [
        ("discrete", "parameters, relative to the usual-size U-Net", limits["parameters"], lambda row: row.parameters),
        ("discrete", "MACs per forward pass", limits["macs"], lambda row: row.macs_per_forward),
        ("discrete", "latency per forward pass, eager", 0.2, lambda row: _ratio(row.latency_eager)),
        ("discrete", "latency per forward pass, compiled", 0.2, lambda row: _ratio(row.latency_compiled)),
        ("discrete", "bytes saved for backward, as trained", 0.2, lambda row: row.saved_for_backward_bytes),
        ("discrete", "bytes saved for backward, most frugal exact gradient", 0.2, frugal_bytes),
        ("discrete", "validation loss, equal images", "no worse", loss),
        ("discrete", "FID at the end of training", "no worse", fid),
        ("discrete", "validation loss, equal wall-clock", "clearly better", _quality("validation_loss_equal_time")),
        ("discrete-parameters", "validation loss, compared with the U-Net cut to our parameters", "better", loss),
        ("discrete-macs", "validation loss, compared with the U-Net cut to our MACs", "better", loss),
        ("control", "validation loss, compared with the weight-tied control", "no worse", loss),
        ("control", "FID, compared with the weight-tied control", "no worse", fid),
        ("control", STEPS_CLAIM, "flatter than the control", sensitivity),
        ("control", MEMORY_CLAIM, "less", lambda row: exact.get(row.side)),
    ]
    ours = sides["ours"]
    found = [_judge(text, target, of(ours), of(sides[other])) for other, text, target, of in claims if other in sides]
    verdicts = [verdict for verdict in found if verdict is not None]
    return verdicts or [Verdict("none: no claim is about the sides that were compared", "", "", "")]


def _ratio(timing: Timing | None) -> float | None:
    return None if timing is None else timing.ratio


def _quality(name: str) -> Figure:
    return lambda row: None if row.quality is None else getattr(row.quality, name)


def _judge(
    claim: str, target: float | str, mine: float | Spread | None, theirs: float | Spread | None
) -> Verdict | None:
    """Returns nothing if one of the figures was not measured. A target is the largest share, or words."""
    if isinstance(mine, Spread) and isinstance(theirs, Spread):
        return _seed_by_seed(claim, str(target), mine, theirs)
    if not isinstance(mine, float | int) or not isinstance(theirs, float | int):
        return None
    share = f"{mine / theirs:.1%}"
    if isinstance(target, float):
        return Verdict(claim, f"at most {target:.0%}", share, _met(mine / theirs <= target))
    measured = f"{mine:.2f} x ({theirs:.2f} x)" if claim == STEPS_CLAIM else share
    return Verdict(claim, target, measured, _met(mine < theirs))


def _met(condition: bool) -> str:
    return "met" if condition else "missed"


def _seed_by_seed(claim: str, target: str, mine: Spread, theirs: Spread) -> Verdict:
    difference = mine.mean / theirs.mean - 1
    pairs = list(zip(mine.seeds, theirs.seeds, strict=False))
    won = sum(ours <= other for ours, other in pairs)
    if difference <= 0:
        verdict = "met" if won == len(pairs) or target == "no worse" else "level"
    else:
        verdict = "missed" if won == 0 else "level"
    seeds = f", in {won} of {len(pairs)} seeds" if len(pairs) > 1 else ""
    return Verdict(claim, target, f"{mine.mean:.4g} against {theirs.mean:.4g} ({difference:+.1%}{seeds})", verdict)


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
