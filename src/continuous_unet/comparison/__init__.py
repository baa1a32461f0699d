"""Several models, trained and measured side by side under one protocol, and the report of it.

Names are loaded on first use: `config` must be readable without torch.
"""

from typing import TYPE_CHECKING

from continuous_unet.base.lazy import lazy_names

if TYPE_CHECKING:
    from continuous_unet.comparison.config import CompareConfig as CompareConfig
    from continuous_unet.comparison.run import CompareResult as CompareResult
    from continuous_unet.comparison.run import compare as compare
    from continuous_unet.comparison.sides import Side as Side
    from continuous_unet.comparison.sides import load_sides as load_sides

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".config": ["CompareConfig"],
        ".run": ["CompareResult", "compare"],
        ".sides": ["Side", "load_sides"],
    },
)
