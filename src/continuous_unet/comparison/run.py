"""The library call behind `cunet compare`."""

import contextlib
import platform
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from continuous_unet.base.devices import pick_device
from continuous_unet.base.errors import InputError
from continuous_unet.base.packages import import_extra
from continuous_unet.base.results import CallResult, Json
from continuous_unet.base.signals import Stopped, StopRequest, stop_on_signals
from continuous_unet.comparison.config import CompareConfig
from continuous_unet.comparison.pieces import PieceStore
from continuous_unet.comparison.protocol import Protocol
from continuous_unet.comparison.report import write_reports
from continuous_unet.comparison.results import Machine
from continuous_unet.comparison.rows import SideRow
from continuous_unet.comparison.sides import Side, load_sides, resolve_cuts, square_side
from continuous_unet.comparison.verdicts import Verdict
from continuous_unet.data import ImageDataset, open_dataset, train_validation_split
from continuous_unet.evaluation.costs.profile import refusing
from continuous_unet.evaluation.quality.extractors import chosen_extractor, extractor_class


@dataclass
class CompareResult(CallResult):
    """Where the comparison is, and its verdicts."""

    output: str
    report: str = ""
    results: list[SideRow] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    stopped_by: int | None = None
    note: str | None = None
    """What a person should know about the choice of the features."""

    def to_dict(self) -> Json:
        return {**super().to_dict(), "results": [row.cells() for row in self.results]}

    def to_text(self) -> str:
        if self.stopped_by is not None:
            return ""
        lines = [f"{v.verdict or '-':7} {v.claim}: {v.measured} ({v.target})" for v in self.verdicts]
        return "\n".join([*lines, f"report: {self.report}"])

    def notes(self) -> list[str]:
        stopped = [] if self.stopped_by is None else [f"stopped; the same command continues {self.output}"]
        return stopped if self.note is None else [f"note: {self.note}", *stopped]


def compare(config: CompareConfig, *, stop: StopRequest | None = None) -> CompareResult:
    """Trains and measures all sides, and writes the report; continues where an earlier call stopped.

    Args:
        config: all settings. `config.output` may hold an unfinished comparison with the same settings.
        stop: a request to stop; what is finished by then is kept.

    Raises:
        InputError: for settings, data or files that cannot be used.
    """
    config.validate()
    # Everything that can be refused is refused before anything is written.
    device = pick_device(config.device)
    data, held_out = _open_data(config)
    size, channels = square_side(data.report), data.report.channels
    side_size = config.side_size if config.side_size != "auto" else "small" if size <= 32 else "base"
    sides = resolve_cuts(load_sides(config.sides, side_size), size, channels)
    for side in sides:
        _try(side, size, channels)
    for name in ("torchmetrics", "matplotlib", "jinja2"):
        import_extra(name, f"a comparison needs the package {name}", "compare")
    folder = Path(config.output)
    name, note = _extractor(config, folder, channels)
    config = replace(config, extractor=name)
    if not config.costs_only:
        extractor_class(config.extractor).check(device)

    with contextlib.nullcontext(stop) if stop is not None else stop_on_signals() as request:
        pieces = PieceStore(folder, request, config.jobs)
        pieces.claim(config, sides)
        try:
            comparison = Protocol(config, data, held_out, sides, pieces, device).run(machine(device))
        except Stopped as stopped:
            return CompareResult(config.output, stopped_by=stopped.signal, note=note)
        rows, verdicts = write_reports(folder, comparison)
    return CompareResult(config.output, str(folder / "report.html"), rows, verdicts, note=note)


def _extractor(config: CompareConfig, folder: Path, channels: int) -> tuple[str, str | None]:
    """Returns the extractor, and a note on it; `auto` is what the comparison in the folder has, if one was begun."""
    begun = folder / "compare.yaml"
    if config.extractor == "auto" and begun.is_file():
        config = CompareConfig.load(begun)
    name, note = chosen_extractor(config.extractor, channels)
    return name, None if config.costs_only else note


def _open_data(config: CompareConfig) -> tuple[ImageDataset, ImageDataset]:
    """Returns images to train on, and those held out: none if only costs are measured."""
    dataset = open_dataset(
        config.data,
        image_size=config.image_size,
        channels=config.channels,
        fit=config.fit,
        random_flip=config.random_flip,
    )
    if config.class_conditional:
        dataset.report.required_classes()
    data, held_out = train_validation_split(dataset, 0 if config.costs_only else config.num_validation, 0)
    if len(data) < 200 and not config.costs_only:
        raise InputError(
            f"{config.data} leaves {len(data)} images to train on; a comparison of quality needs at least 200 "
            "(half to compare samples with, half for the floor); give more data, or use --costs-only"
        )
    return data, held_out


def _try(side: Side, size: int, channels: int) -> None:
    """Builds a side and runs it once.

    Raises:
        InputError: if it cannot be made, or cannot take images of this size.
    """
    model = side.build(size, channels).eval()
    with torch.no_grad(), refusing(f"the side {side.name} cannot take images of {size}x{size} pixels"):
        model(torch.zeros(1, channels, size, size), 0)


def machine(device: torch.device) -> Machine:
    """Describes the machine on which the figures are measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    if device.type != "cuda":
        with contextlib.suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return Machine(str(device), name, torch.get_num_threads(), torch.__version__)
