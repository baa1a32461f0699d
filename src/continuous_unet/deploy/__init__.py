"""Trained models are exported, checked against PyTorch, quantised, pruned, and run without torch.

`runtime` is loaded on first use: it must be importable where there is no torch, and the command line reads `options`
before torch is needed.
"""

from typing import TYPE_CHECKING

from continuous_unet.base.lazy import lazy_names

if TYPE_CHECKING:
    from continuous_unet.deploy.standalone import runtime as runtime

__getattr__, __dir__, __all__ = lazy_names(__name__, {".standalone": ["runtime"]})
