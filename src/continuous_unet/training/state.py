"""What changes while a run goes on, and how it goes into a checkpoint and comes back: its counters, and what learns."""

import contextlib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.optimizer import AcceleratedOptimizer
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from continuous_unet.base.errors import InputError
from continuous_unet.tasks.network import Network, Prediction
from continuous_unet.training.ema import averaged_weights

if TYPE_CHECKING:
    from continuous_unet.models.config import SavedConfig

Tensors = dict[str, dict[str, Tensor]]
"""Tensors by file and name."""


@dataclass
class TrainState:
    """The counters of a run. What is added here is saved and restored."""

    draws: str
    """The random draws that the run was begun with."""
    num_processes: int
    step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    """Time spent on the run, up to the last checkpoint or resumption."""
    losses: list[Tensor] = field(default_factory=list)
    """Loss of each step since the last record."""
    non_finite: int = 0
    """Number of steps in a row without a finite gradient."""
    unreadable: set[int] = field(default_factory=set)
    """Numbers of the images that turned out unreadable while training, in any process."""

    def count_step(self, loss: Tensor, images: int) -> None:
        """Counts a training step."""
        self.step += 1
        self.images_seen += images
        self.losses.append(loss)

    def to_dict(self) -> dict[str, Any]:
        """Returns the counters as JSON has them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "losses": [float(loss) for loss in self.losses], "unreadable": sorted(self.unreadable)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], device: torch.device) -> "TrainState":
        """Undoes `to_dict`.

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

    bare: Network
    wrapped: nn.Module

    @property
    def config(self) -> "SavedConfig":
        return self.bare.config

    @property
    def dtype(self) -> torch.dtype:
        return self.bare.dtype

    @property
    def device(self) -> torch.device:
        return self.bare.device

    def __call__(self, sample: Tensor, timestep: Tensor | float, **conditions: Any) -> Prediction:
        return self.wrapped(sample, timestep, **conditions)


@dataclass
class Learner:
    """The objects of a run that learn; `state_dict` and `load_state_dict` undo each other, bit for bit."""

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

    @property
    def bare(self) -> Network:
        """The bare model, as tasks use it."""
        return cast(Network, self.model)

    @property
    def network(self) -> Network:
        """The wrapped model, as tasks use it."""
        return WrappedNetwork(self.bare, self.wrapped)

    @property
    def names(self) -> list[str]:
        """Names of the parameters, in the order of the optimizer and of the averages."""
        return [name for name, _ in self.model.named_parameters()]

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(p.numel() for p in self.model.parameters())

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within, the model is in evaluation mode and has the averaged weights."""
        return averaged_weights(self.model, self.ema)

    def is_finite(self) -> bool:
        """Whether all weights are finite."""
        return all(bool(p.isfinite().all()) for p in self.model.parameters())

    def update(self, finite: bool) -> None:
        """Changes the weights by the gradient, if that is finite, and clears it.

        The loss scaler of float16 expects an overflow now and then: it must see it to back off, and skips the update.
        """
        if finite or self.scaler is not None:
            self.optimizer.step()
        if finite:
            self.lr_scheduler.step()
            if self.ema is not None:
                self.ema.step(self.model.parameters())
        self.optimizer.zero_grad()

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """Returns the tensors by file and name, and the numbers as JSON has them."""
        names, optimizer = self.names, self.optimizer.state_dict()
        tensors: Tensors = {
            "model": dict(self.model.named_parameters()),
            "optimizer": {
                f"{names[i]}/{key}": value for i, entry in optimizer["state"].items() for key, value in entry.items()
            },
        }
        numbers = {
            "optimizer": optimizer["param_groups"],
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "scaler": self.scaler and self.scaler.state_dict(),
        }
        if self.ema is not None:
            numbers["ema"] = self.ema.state_dict()
            tensors["ema"] = dict(zip(names, numbers["ema"].pop("shadow_params"), strict=True))
        return tensors, numbers

    @torch.no_grad()
    def load_state_dict(self, tensors: Tensors, numbers: dict[str, Any]) -> None:
        """Undoes `state_dict`, whatever device the objects are on now.

        Raises:
            InputError: for tensors that are not this model's; nothing is changed then.
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
        self.optimizer.load_state_dict({"state": state, "param_groups": numbers["optimizer"]})
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
                raise InputError(f"the checkpoint's {file}.safetensors does not fit this model; is it of another run?")
        for full, tensor in tensors.get("optimizer", {}).items():
            shape = own.get(full.rpartition("/")[0])
            if shape is None or (tensor.ndim and tensor.shape != shape):  # AdamW's counters have no dimension
                raise InputError(f"the checkpoint's optimizer.safetensors does not fit this model ({full})")
