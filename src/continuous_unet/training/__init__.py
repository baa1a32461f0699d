"""Training of diffusion models on accelerate.

Names are loaded on first use: `config` must be readable without torch.
"""

from typing import TYPE_CHECKING

from continuous_unet.base.lazy import lazy_names

__getattr__ = lazy_names(
    __name__,
    {
        "TrainConfig": "continuous_unet.training.config",
        "TrainResult": "continuous_unet.training.report",
        "train": "continuous_unet.training.run",
    },
)
__all__ = ["TrainConfig", "TrainResult", "train"]

if TYPE_CHECKING:
    from continuous_unet.training.config import TrainConfig
    from continuous_unet.training.report import TrainResult
    from continuous_unet.training.run import train
