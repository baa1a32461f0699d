"""Training of models with accelerate.

Names are loaded on first use: `config` must be readable without torch.
"""

from typing import TYPE_CHECKING

from continuous_unet.base.lazy import lazy_names

if TYPE_CHECKING:
    from continuous_unet.training.config import TrainConfig as TrainConfig
    from continuous_unet.training.report import TrainResult as TrainResult
    from continuous_unet.training.run import train as train

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".config": ["TrainConfig"],
        ".report": ["TrainResult"],
        ".run": ["train"],
    },
)
