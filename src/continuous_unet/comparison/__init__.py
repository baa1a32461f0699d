"""Several models, trained and measured side by side under one protocol, and the report of it.

Names are loaded on first use: `config` must be readable without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "CompareConfig": "continuous_unet.comparison.config",
    "CompareResult": "continuous_unet.comparison.run",
    "Side": "continuous_unet.comparison.sides",
    "compare": "continuous_unet.comparison.run",
    "load_sides": "continuous_unet.comparison.sides",
}
__all__ = ["CompareConfig", "CompareResult", "Side", "compare", "load_sides"]

if TYPE_CHECKING:
    from continuous_unet.comparison.config import CompareConfig
    from continuous_unet.comparison.run import CompareResult, compare
    from continuous_unet.comparison.sides import Side, load_sides


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
