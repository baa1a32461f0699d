"""The state of a run, and how it is saved and restored: its counters, the model, its optimizer and its averages."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.optimizer import AcceleratedOptimizer
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.tasks.network import Network, Prediction

if TYPE_CHECKING:
    from continuous_unet.models.config import SavedConfig

KERNELS = ("foreach", "fused", "capturable")
"""Settings of an optimizer that belong to the device that it is on, and not to the run."""
Tensors = dict[str, dict[str, Tensor]]
"""Tensors by file and name."""


@dataclass
class TrainState:
    """The counters of a run. Every field is saved in checkpoints and restored from them."""

    draws: str
    """The random draws that the run was begun with."""
    num_processes: int
    step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    """Time spent on the run until the last checkpoint or resumption."""
    losses: list[Tensor] = field(default_factory=list)
    """Loss of each step since the last record."""
    non_finite: int = 0
    """Number of steps in a row without a finite gradient."""
    unreadable: set[int] = field(default_factory=set)
    """Indices of the images that became unreadable during training, in any process."""

    def to_dict(self) -> Json:
        """Returns the counters as values that JSON can hold."""
        losses = [float(loss) for loss in self.losses]
        return {**vars(self), "losses": losses, "unreadable": sorted(self.unreadable)}

    @classmethod
    def from_dict(cls, values: Json, device: torch.device) -> "TrainState":
        """Returns the counters that `to_dict` wrote.

        Raises:
            KeyError, TypeError: if something is missing or of another type.
        """
        state = cls(**{f.name: values[f.name] for f in fields(cls)})
        state.losses = [torch.tensor(loss, device=device) for loss in state.losses]
        state.unreadable = set(state.unreadable)
        return state


@dataclass(frozen=True)
class WrappedNetwork:
    """A model that is compiled, or wrapped for several processes, with the attributes of the bare one."""

    wrapped: nn.Module
    config: "SavedConfig"
    dtype: torch.dtype
    device: torch.device

    def __call__(self, sample: Tensor, timestep: Tensor | float, **conditions: object) -> Prediction:
        return self.wrapped(sample, timestep, **conditions)


@dataclass
class Learner:
    """The model of a run and everything that trains it. `load_state_dict` undoes `state_dict`, bit for bit."""

    model: nn.Module
    """The bare model."""
    wrapped: nn.Module
    """The model as it is trained: perhaps compiled, or wrapped for several processes; it shares the weights."""
    optimizer: AcceleratedOptimizer
    lr_scheduler: LRScheduler
    ema: EMAModel | None
    """The averaged weights, if the run keeps them."""
    scaler: torch.amp.GradScaler | None
    """The gradient scaler of float16; None in other precisions."""
    memory_format: torch.memory_format = torch.preserve_format
    """The layout of images, and of the weights of convolutions."""

    @property
    def bare(self) -> Network:
        """The bare model, as tasks use it."""
        return cast(Network, self.model)

    @cached_property
    def network(self) -> Network:
        """The wrapped model, as tasks use it."""
        return WrappedNetwork(self.wrapped, self.bare.config, self.bare.dtype, self.bare.device)

    @property
    def names(self) -> list[str]:
        """Names of the parameters, in the order of the optimizer and of the averages."""
        return [name for name, _ in self.model.named_parameters()]

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(p.numel() for p in self.model.parameters())

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside this context, the model is in evaluation mode and has the averaged weights.

        Afterwards it has its own again, bit for bit.
        """
        was_training = self.model.training
        self.model.eval()
        if self.ema is not None:
            self.ema.store(self.model.parameters())
            self.ema.copy_to(self.model.parameters())
        try:
            yield
        finally:
            if self.ema is not None:
                self.ema.restore(self.model.parameters())
            self.model.train(was_training)

    def state_dict(self) -> tuple[Tensors, Json]:
        """Returns the tensors by file and name, and the other values in a form that JSON can hold."""
        names, optimizer = self.names, self.optimizer.state_dict()
        tensors: Tensors = {
            "model": dict(self.model.named_parameters()),
            "optimizer": {
                f"{names[i]}/{key}": value for i, entry in optimizer["state"].items() for key, value in entry.items()
            },
        }
        numbers: Json = {
            "optimizer": _plain(optimizer["param_groups"]),
            "lr_scheduler": _plain(self.lr_scheduler.state_dict()),
            "scaler": self.scaler and self.scaler.state_dict(),
        }
        if self.ema is not None:
            numbers["ema"] = self.ema.state_dict()
            tensors["ema"] = dict(zip(names, numbers["ema"].pop("shadow_params"), strict=True))
        return tensors, numbers

    @torch.no_grad()
    def load_state_dict(self, tensors: Tensors, numbers: Json) -> None:
        """Restores what `state_dict` returned, on whatever device the objects are now.

        Raises:
            InputError: for tensors that do not fit this model; nothing has been changed then.
            KeyError: if a number is missing.
        """
        self._check_fit(tensors)
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors["model"][name])
        places = {name: place for place, name in enumerate(self.names)}
        state: dict[int, dict[str, Tensor]] = {}
        for full, tensor in tensors["optimizer"].items():
            name, _, key = full.rpartition("/")
            state.setdefault(places[name], {})[key] = tensor
        pairs = list(zip(numbers["optimizer"], self.optimizer.param_groups, strict=True))
        groups = [{**saved, **{name: own[name] for name in KERNELS if name in own}} for saved, own in pairs]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.lr_scheduler.load_state_dict(numbers["lr_scheduler"])
        if self.ema is not None:
            averages = [tensors["ema"][name] for name in self.names]
            self.ema.load_state_dict({**numbers["ema"], "shadow_params": averages})
            self.ema.to(next(self.model.parameters()).device)
        if self.scaler is not None and numbers["scaler"] is not None:
            self.scaler.load_state_dict(numbers["scaler"])

    def _check_fit(self, tensors: Tensors) -> None:
        own = {name: parameter.shape for name, parameter in self.model.named_parameters()}
        for file in ("model", *(() if self.ema is None else ("ema",))):
            if {name: tensor.shape for name, tensor in tensors.get(file, {}).items()} != own:
                raise InputError(
                    f"the checkpoint's {file}.safetensors does not fit this model; put the run's own checkpoint back, "
                    "or remove it to continue from an older one"
                )
        for full, tensor in tensors.get("optimizer", {}).items():
            shape = own.get(full.rpartition("/")[0])
            if shape is None or (tensor.ndim and tensor.shape != shape):  # AdamW's counters have no dimension
                raise InputError(
                    f"the checkpoint's optimizer.safetensors does not fit this model ({full}); put the run's own "
                    "checkpoint back, or remove it to continue from an older one"
                )


def _plain(value: Any) -> Any:
    """Returns settings as JSON can hold them: a learning rate may be a tensor on a device."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return float(value) if isinstance(value, Tensor) else value
