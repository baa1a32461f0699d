"""Several models, trained and measured side by side under one protocol, and the report of it.

Names are loaded on first use: `config` must be readable without torch.
"""

from typing import TYPE_CHECKING

from continuous_unet.base.lazy import lazy_names

__getattr__ = lazy_names(
    __name__,
    {
        "CompareConfig": "continuous_unet.comparison.config",
        "CompareResult": "continuous_unet.comparison.run",
        "Side": "continuous_unet.comparison.sides",
        "compare": "continuous_unet.comparison.run",
        "load_sides": "continuous_unet.comparison.sides",
    },
)
__all__ = ["CompareConfig", "CompareResult", "Side", "compare", "load_sides"]

if TYPE_CHECKING:
    from continuous_unet.comparison.config import CompareConfig
    from continuous_unet.comparison.run import CompareResult, compare
    from continuous_unet.comparison.sides import Side, load_sides
