"""The U-Net that pipelines evaluate, as a protocol, and the base of all pipelines."""

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from continuous_unet.tasks.facts import Facts

if TYPE_CHECKING:
    from continuous_unet.models.config import SavedConfig


class Prediction(Protocol):
    """The output of a U-Net."""

    @property
    def sample(self) -> Tensor:
        """The prediction `(B, C, H, W)`."""


@runtime_checkable  # diffusers compares the parts of a pipeline with the annotations of its constructor
class Network(Protocol):
    """A U-Net of diffusers' contract."""

    @property
    def config(self) -> "SavedConfig":
        """The arguments of its constructor."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    def __call__(self, sample: Tensor, timestep: Tensor | float, **conditions: Any) -> Prediction:
        """Evaluates the network for noisy images `(B, C, H, W)`."""


class Pipeline(DiffusionPipeline):
    """Base of our pipelines: a U-Net, and the scheduler of diffusers that samples with it."""

    model_cpu_offload_seq = "unet"  # type: ignore[assignment]  # diffusers annotates its default, None
    unet: Network
    scheduler: Any
    facts: Facts
    """What is saved with the model, such as the names of its classes."""

    def __init__(self, unet: Network, scheduler: Any) -> None:
        super().__init__()
        self.facts = Facts()
        self.register_modules(unet=unet, scheduler=scheduler)
