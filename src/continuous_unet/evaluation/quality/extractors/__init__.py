"""Feature extractors of FID and KID. A new one is a module here and an entry in `evaluation.options.EXTRACTORS`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.data import ImageDataset
from continuous_unet.evaluation.options import EXTRACTORS

Facts = dict[str, str | int | float | None]
"""What `prepare` found out, as JSON."""


@dataclass(frozen=True)
class Extractor:
    """Turns images `(B, C, H, W)` in [-1, 1] into features `(B, F)`."""

    features: Callable[[Tensor], Tensor]
    name: str
    """What it is, for people: no distance is printed without it."""


class ExtractorModule(Protocol):
    """What each module of an extractor has."""

    def check(self, device: torch.device) -> None:
        """Raises InputError, with a remedy, if the extractor cannot be used here."""

    def prepare(
        self,
        data: ImageDataset,
        held_out: ImageDataset,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        path: Path,
        before_step: Callable[[], None] = lambda: None,
    ) -> Facts:
        """Makes the extractor's file, if it has one.

        Args:
            data: real images to train on.
            held_out: real images to test on.
            steps: training steps.
            seed: seed of weights and order.
            device: where to compute.
            path: where to write the weights (safetensors).
            before_step: called before each training step; what it raises ends the work.
        """

    def load(self, path: Path, facts: Facts, device: torch.device) -> Extractor:
        """Returns the extractor that `prepare` made."""


@dataclass(frozen=True)
class ExtractorSpec:
    """An extractor that another process can load."""

    kind: str
    path: str
    facts: Facts = field(default_factory=dict)

    def load(self, device: torch.device) -> Extractor:
        """Returns the extractor on a device."""
        return extractor_module(self.kind).load(Path(self.path), self.facts, device)


def extractor_module(kind: str) -> ExtractorModule:
    """Returns the module of an extractor.

    Raises:
        InputError: for an unknown name.
    """
    if kind not in EXTRACTORS:
        raise InputError(f"extractor={kind!r} is unknown; expected one of {', '.join(EXTRACTORS)}")
    module: ExtractorModule = import_module(EXTRACTORS[kind])  # type: ignore[assignment]  # a module is checked by use
    return module
