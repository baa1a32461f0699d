"""The sides of a comparison: one YAML file each, or a saved model; and how they are cut to each other's cost."""

import dataclasses
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, option
from continuous_unet.base.results import Json
from continuous_unet.data.report import DatasetReport
from continuous_unet.evaluation import count_macs
from continuous_unet.models.build import build_unet
from continuous_unet.models.presets import PRESETS
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.tasks.packaged import absolute_model

if TYPE_CHECKING:
    from typing_extensions import Self

FOLDER = Path(__file__).parent / "builtin_sides"
COSTS = ("parameters", "macs")
SAVED = "saved:"
"""Before the path of a run or a saved model, it makes a side of it: `saved:runs/distilled`."""


@dataclass
class Side(Options):
    """One model of a comparison, as its YAML file describes it."""

    name: str = option("", "name of the side (default: that of its file)")
    label: str = option("", "name of the side in the report (default: that of its file)")
    preset: str = option("", "architecture of the model", choices=("", *PRESETS))
    model_options: Json = option({}, "constructor arguments of the model that override the preset")
    cut: Json | None = option(
        None,
        "{to: SIDE, cost: parameters or macs, share: 1.0}: widths are scaled down until the cost is at most that "
        "fraction of the other side's",
    )
    max_seeds: int | None = option(None, "largest number of seeds, for a side whose training is expensive", at_least=1)
    saved: str | None = option(None, "run or saved model that is compared as it is, in place of a model to train")

    def validate(self) -> "Self":
        super().validate()
        if (self.saved is None) == (not self.preset) or (self.saved is not None and (self.model_options or self.cut)):
            raise InputError("a side has either a preset, with model_options and cut if wanted, or a saved model")
        keys, cut = {"to", "cost", "share"}, self.cut
        if cut is not None and (set(cut) - keys or cut.get("cost") not in COSTS or "to" not in cut):
            raise InputError(
                f"cut must look like {{to: ours, cost: parameters, share: 1.0}}; cost is {' or '.join(COSTS)}"
            )
        return self

    def model(self) -> Json:
        """Returns preset and arguments of the model, or where it is saved, as in a side file."""
        if self.saved is not None:
            return {"saved": self.saved}
        options = {k: list(v) if isinstance(v, tuple) else v for k, v in self.model_options.items()}
        return {"preset": self.preset, "model_options": options}

    def build(self, image_size: int, channels: int) -> Any:
        """Returns a new U-Net of this side, or the saved one.

        Raises:
            InputError: for settings that do not fit, or a saved model of other images.
        """
        if self.saved is not None:
            unet: Any = load_pipeline(self.saved).unet
            has = unet.config.in_channels, unet.config.sample_size
            if has != (channels, image_size) or unet.config.num_class_embeds is not None:
                needed = f"{image_size} pixels, {channels} channels and no classes"
                classes = "" if unet.config.num_class_embeds is None else " and classes"
                raise InputError(
                    f"the side {self.name} works on {has[1]} pixels with {has[0]} channels{classes}; this comparison "
                    f"needs {needed}; measure others, such as models of latents, with `cunet evaluate generate`"
                )
            return unet
        try:
            return build_unet(
                self.preset, sample_size=image_size, in_channels=channels, out_channels=channels, **self.model_options
            )
        except (ValueError, TypeError) as error:
            raise InputError(f"the side {self.name} cannot be made: {error}") from error


def square_side(report: DatasetReport) -> int:
    """Returns the side of the images in pixels.

    Raises:
        InputError: if they are not square.
    """
    if isinstance(report.image_size, int):
        return report.image_size
    raise InputError(f"a comparison needs square images, and these have {report.image_size}; give --image-size SIDE")


def built_in(size: str) -> list[str]:
    """Returns the names of the built-in sides, `small` or `base`, in the order of the report."""
    order = ("ours", "control", "paper", "paper-first-order", "discrete", "discrete-parameters", "discrete-macs")
    found = {path.stem for path in (FOLDER / size).glob("*.yaml")}
    return [name for name in order if name in found]


def load_sides(names: list[str], size: str) -> list[Side]:
    """Returns sides: built-in ones by name, saved models as `saved:PATH`, others by the path of their YAML file.

    Raises:
        InputError: for a side that does not exist, or a file that does not fit.
    """
    known = built_in(size)
    sides = []
    for name in names or known:
        if name.startswith(SAVED):
            place = absolute_model(name.removeprefix(SAVED))
            short = Path(place).name
            sides.append(Side(name=short, label=f"{short} (saved)", saved=place).validate())
            continue
        path = FOLDER / size / f"{name}.yaml" if name in known else Path(name)
        if not path.is_file():
            raise InputError(
                f"the side {name!r} is neither built in ({', '.join(known)}) nor a YAML file, nor saved:MODEL"
            )
        sides.append(read_side(path))
    by_name = {side.name: side for side in sides}
    if len(by_name) < len(sides):
        raise InputError(f"two sides have the same name: {', '.join(side.name for side in sides)}")
    for side in sides:
        if side.cut is not None and side.cut["to"] not in by_name:
            raise InputError(f"the side {side.name} is cut to the cost of {side.cut['to']!r}; compare that side, too")
    return sides


def read_side(path: Path) -> Side:
    """Reads a side file.

    Raises:
        InputError: if it does not fit.
    """
    side = Side.load(path)
    side.name, side.label = path.stem, side.label or path.stem
    if side.saved is not None:
        side.saved = absolute_model(side.saved)
    try:
        return side.validate()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def resolve_cuts(sides: list[Side], image_size: int, channels: int) -> list[Side]:
    """Returns the sides with every cut carried out: `model_options` then holds the widths.

    Raises:
        InputError: for cuts that depend on each other, or that cannot be made.
    """
    resolved: dict[str, Side] = {}

    def resolve(side: Side, waiting: tuple[str, ...] = ()) -> Side:
        if side.name in waiting:
            raise InputError(f"the sides {', '.join(waiting)} are cut to each other's cost in a circle")
        if side.name not in resolved:
            if side.cut is not None:
                other = resolve(next(s for s in sides if s.name == side.cut["to"]), (*waiting, side.name))
                limit = side.cut.get("share", 1.0) * cost(other, side.cut["cost"], image_size, channels)
                side = cut_widths(side, side.cut["cost"], limit, image_size, channels)
            resolved[side.name] = side
        return resolved[side.name]

    return [resolve(side) for side in sides]


def cost(side: Side, kind: str, image_size: int, channels: int) -> int:
    """Returns the parameters, or the multiply-accumulates of one forward pass of one image."""
    model = side.build(image_size, channels)
    if kind == "parameters":
        return sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        return count_macs(model, torch.zeros(1, channels, image_size, image_size), 500).macs


def cut_widths(side: Side, kind: str, limit: float, image_size: int, channels: int) -> Side:
    """Returns the side with its widths scaled down, in multiples of 8, to the largest cost of at most `limit`.

    Raises:
        InputError: if even the smallest widths cost more.
    """
    full = tuple(PRESETS[side.preset](**side.model_options)["block_out_channels"])

    def with_widths(largest: int) -> Side:
        widths = [max(8, round(width * largest / max(full) / 8) * 8) for width in full]
        return dataclasses.replace(side, model_options={**side.model_options, "block_out_channels": widths})

    counts = range(1, max(full) // 8 + 1)  # cost grows with the widths
    fitting = bisect_right(counts, limit, key=lambda n: cost(with_widths(8 * n), kind, image_size, channels))
    if not fitting:
        raise InputError(f"the side {side.name} cannot be cut to {limit:,.0f} {kind}: its smallest form costs more")
    return with_widths(8 * counts[fitting - 1])
