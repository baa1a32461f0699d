"""Training of diffusion models on accelerate.

Names are loaded on first use: `config` must be readable without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "TrainConfig": "continuous_unet.training.config",
    "TrainResult": "continuous_unet.training.trainer",
    "train": "continuous_unet.training.trainer",
    "diffusion_loss": "continuous_unet.diffusion.losses",
}
__all__ = ["TrainConfig", "TrainResult", "diffusion_loss", "train"]

if TYPE_CHECKING:
    from continuous_unet.diffusion.losses import diffusion_loss
    from continuous_unet.training.config import TrainConfig
    from continuous_unet.training.trainer import TrainResult, train


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
