"""The averaged weights: diffusers' `EMAModel`, with a way in and out of checkpoints."""

import contextlib
from collections.abc import Iterator
from typing import Any

from diffusers.training_utils import EMAModel
from torch import Tensor, nn


def make_ema(model: nn.Module, decay: float) -> EMAModel:
    """An average whose decay rises to `decay` by the usual warm-up `1 - (1 + step)^(-3/4)`."""
    return EMAModel(model.parameters(), decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75)


def ema_tensors(ema: EMAModel, names: list[str]) -> dict[str, Tensor]:
    """The averages by parameter name."""
    return dict(zip(names, ema.shadow_params, strict=True))


def ema_counters(ema: EMAModel) -> dict[str, Any]:
    """The numbers that decide the next update."""
    return {"optimization_step": ema.optimization_step, "cur_decay_value": ema.cur_decay_value}


def restore_ema(ema: EMAModel, names: list[str], tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
    """Undo `ema_tensors` and `ema_counters`."""
    for name, shadow in zip(names, ema.shadow_params, strict=True):
        shadow.copy_(tensors[name])
    ema.optimization_step = counters["optimization_step"]
    ema.cur_decay_value = counters["cur_decay_value"]


@contextlib.contextmanager
def averaged_weights(model: nn.Module, ema: EMAModel | None) -> Iterator[None]:
    """Within, the model is in evaluation mode and has the averaged weights; after, its own again, bit for bit."""
    was_training = model.training
    model.eval()
    if ema is not None:
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
    try:
        yield
    finally:
        if ema is not None:
            ema.restore(model.parameters())
        model.train(was_training)
