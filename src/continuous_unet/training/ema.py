"""The averaged weights: diffusers' `EMAModel`, and a model that has them for a while."""

import contextlib
from collections.abc import Iterator

from diffusers.training_utils import EMAModel
from torch import nn


def make_ema(model: nn.Module, decay: float) -> EMAModel:
    """Returns an average whose decay rises to `decay` by the usual warm-up `1 - (1 + step)^(-3/4)`."""
    return EMAModel(model.parameters(), decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75)


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
