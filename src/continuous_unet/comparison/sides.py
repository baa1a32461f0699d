"""The sides of a comparison: one YAML file each, and how a discrete U-Net is cut to the cost of another side."""

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from continuous_unet.base.errors import InputError
from continuous_unet.evaluation import count_macs
from continuous_unet.models.build import build_unet
from continuous_unet.models.presets import PRESETS
from continuous_unet.training.config import read_yaml

FOLDER = Path(__file__).parent / "builtin_sides"
COSTS = ("parameters", "macs")


@dataclass(frozen=True)
class Side:
    """One model of a comparison."""

    name: str
    label: str
    preset: str
    model_options: dict[str, Any] = field(default_factory=dict)
    cut: dict[str, Any] | None = None
    """`{"to": side, "cost": "parameters" or "macs", "share": 1.0}`: the widths are scaled down until the cost is at
    most that share of the other side's."""

    max_seeds: int | None = None
    """Train with at most so many seeds, for a side that is dear to train; the report gives the number."""

    def build(self, image_size: int, channels: int) -> Any:
        """A new U-Net of this side.

        Raises:
            InputError: for settings that do not fit.
        """
        try:
            return build_unet(
                self.preset, sample_size=image_size, in_channels=channels, out_channels=channels, **self.model_options
            )
        except (ValueError, TypeError) as error:
            raise InputError(f"the side {self.name} cannot be made: {error}") from error


def built_in(scale: str) -> list[str]:
    """Names of the built-in sides of a scale, in the order of the report."""
    order = ("ours", "control", "paper", "paper-first-order", "discrete", "discrete-parameters", "discrete-macs")
    there = {path.stem for path in (FOLDER / scale).glob("*.yaml")}
    return [name for name in order if name in there]


def load_sides(names: list[str], scale: str) -> list[Side]:
    """Read sides: built-in ones by name, others by the path of their YAML file.

    Raises:
        InputError: for a side that is not there, or a file that does not fit.
    """
    sides = [_read(name, scale) for name in names or built_in(scale)]
    by_name = {side.name: side for side in sides}
    if len(by_name) < len(sides):
        raise InputError(f"two sides have the same name: {', '.join(side.name for side in sides)}")
    for side in sides:
        if side.cut is not None and side.cut["to"] not in by_name:
            raise InputError(f"the side {side.name} is cut to the cost of {side.cut['to']!r}; compare that side, too")
    return sides


def _read(name: str, scale: str) -> Side:
    path = FOLDER / scale / f"{name}.yaml" if name in built_in(scale) else Path(name)
    if not path.is_file():
        raise InputError(f"the side {name!r} is neither built in ({', '.join(built_in(scale))}) nor a YAML file")
    fields = [f.name for f in dataclasses.fields(Side) if f.name != "name"]
    values = read_yaml(path, fields)
    values.setdefault("label", path.stem)
    side = Side(name=path.stem, **{"preset": "", **values})
    if side.preset not in PRESETS:
        raise InputError(f"{path}: preset={side.preset!r} is unknown; expected one of {', '.join(PRESETS)}")
    if not isinstance(side.model_options, dict):
        raise InputError(f"{path}: model_options must be a mapping of constructor arguments")
    if side.max_seeds is not None and (not isinstance(side.max_seeds, int) or side.max_seeds < 1):
        raise InputError(f"{path}: max_seeds={side.max_seeds!r} must be an integer of at least 1")
    cut = side.cut
    if cut is not None:
        if (
            not isinstance(cut, dict)
            or set(cut) - {"to", "cost", "share"}
            or cut.get("cost") not in COSTS
            or "to" not in cut
        ):
            raise InputError(
                f"{path}: cut must look like {{to: ours, cost: parameters, share: 1.0}}; cost is one of {COSTS}"
            )
        cut.setdefault("share", 1.0)
    return side


def resolve_cuts(sides: list[Side], image_size: int, channels: int) -> list[Side]:
    """The sides with every cut carried out: `model_options` then holds the widths.

    Raises:
        InputError: for cuts that wait for each other, or that cannot be made.
    """
    resolved: dict[str, Side] = {}

    def resolve(side: Side, waiting: tuple[str, ...] = ()) -> Side:
        if side.name in waiting:
            raise InputError(f"the sides {', '.join(waiting)} are cut to each other's cost in a circle")
        if side.name not in resolved:
            if side.cut is not None:
                other = resolve(next(s for s in sides if s.name == side.cut["to"]), (*waiting, side.name))
                limit = side.cut["share"] * cost(other, side.cut["cost"], image_size, channels)
                side = cut_widths(side, side.cut["cost"], limit, image_size, channels)
            resolved[side.name] = side
        return resolved[side.name]

    return [resolve(side) for side in sides]


def cost(side: Side, kind: str, image_size: int, channels: int) -> int:
    """Parameters, or multiply-accumulates of one forward pass of one image."""
    model = side.build(image_size, channels)
    if kind == "parameters":
        return sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        return count_macs(model, torch.zeros(1, channels, image_size, image_size), 500).macs


def cut_widths(side: Side, kind: str, limit: float, image_size: int, channels: int) -> Side:
    """The side with its widths scaled down, in multiples of 8, to the largest cost of at most `limit`.

    Raises:
        InputError: if even the smallest widths cost more.
    """
    full = tuple(PRESETS[side.preset](**side.model_options)["block_out_channels"])

    def with_widths(largest: int) -> Side:
        widths = [max(8, round(width * largest / max(full) / 8) * 8) for width in full]
        return dataclasses.replace(side, model_options={**side.model_options, "block_out_channels": widths})

    @cache
    def fits(eighths: int) -> bool:
        return cost(with_widths(8 * eighths), kind, image_size, channels) <= limit

    low, high = 1, max(full) // 8
    if not fits(low):
        raise InputError(f"the side {side.name} cannot be cut to {limit:,.0f} {kind}: its smallest form costs more")
    while low < high:  # cost grows with the widths
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return with_widths(8 * low)
