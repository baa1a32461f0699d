"""What of a run's objects goes into a checkpoint, and back: weights, averages, optimiser, learning rate, loss scale.

Tensors by parameter name, and numbers; `checkpoints` puts them on disk.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from continuous_unet.base.errors import InputError
from continuous_unet.training.ema import ema_counters, ema_tensors, restore_ema

Tensors = dict[str, dict[str, Tensor]]


@dataclass
class Snapshot:
    """The objects of a run that change as it goes; `take` and `restore` are each other's inverse, bit for bit."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any
    ema: EMAModel | None
    scaler: Any
    """float16's gradient scaler, None in other precisions."""

    @property
    def names(self) -> list[str]:
        """Of the parameters, in the order of the optimiser and of the averages."""
        return [name for name, _ in self.model.named_parameters()]

    def take(self) -> tuple[Tensors, dict[str, Any]]:
        """The tensors by file and name, and the numbers."""
        tensors = {
            "model": dict(self.model.named_parameters()),
            "optimizer": optimizer_tensors(self.optimizer, self.names),
        }
        rate = self.lr_scheduler
        numbers: dict[str, Any] = {
            "learning_rate": {
                "last_epoch": rate.last_epoch,
                "step_count": rate._step_count,
                "last": rate.get_last_lr(),
            },
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        if self.ema is not None:
            tensors["ema"] = ema_tensors(self.ema, self.names)
            numbers["ema"] = ema_counters(self.ema)
        return tensors, numbers  # type: ignore[return-value]

    @torch.no_grad()
    def restore(self, tensors: Tensors, numbers: dict[str, Any]) -> None:
        """Undo `take`, whatever device the objects are on now.

        Raises:
            InputError: for tensors that are not this model's; nothing is changed then.
        """
        self._check_fit(tensors)
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors["model"][name])
        restore_optimizer(self.optimizer, self.names, tensors["optimizer"])
        if self.ema is not None:
            restore_ema(self.ema, self.names, tensors["ema"], numbers["ema"])  # copied in place: the device stays
        rate = numbers["learning_rate"]
        self.lr_scheduler.last_epoch = rate["last_epoch"]
        self.lr_scheduler._step_count = rate["step_count"]
        self.lr_scheduler._last_lr = rate["last"]
        for group, value in zip(self.optimizer.param_groups, rate["last"], strict=True):
            group["lr"] = value
        if numbers["scaler"] is not None and self.scaler is not None:
            self.scaler.load_state_dict(numbers["scaler"])

    def _check_fit(self, tensors: Tensors) -> None:
        own = {name: parameter.shape for name, parameter in self.model.named_parameters()}
        for stem in ("model", *(() if self.ema is None else ("ema",))):
            if _shapes(tensors.get(stem, {})) != own:
                raise InputError(f"the checkpoint's {stem}.safetensors does not fit this model; is it of another run?")
        for full, tensor in tensors.get("optimizer", {}).items():
            shape = own.get(full.rpartition("/")[0])
            if shape is None or (tensor.ndim and tensor.shape != shape):  # AdamW's counters have no dimension
                raise InputError(f"the checkpoint's optimizer.safetensors does not fit this model ({full})")


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """The state of an optimiser with one tensor per entry (AdamW), as `parameter name/entry`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in zip(names, parameters, strict=True)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Undo `optimizer_tensors`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    by_name: dict[str, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        name, key = full.rsplit("/", 1)
        by_name.setdefault(name, {})[key] = tensor
    for name, parameter in zip(names, parameters, strict=True):
        if name in by_name:
            # AdamW keeps its counter `step` on the CPU
            optimizer.state[parameter] = {
                k: v if k == "step" else v.to(parameter.device) for k, v in by_name[name].items()
            }
