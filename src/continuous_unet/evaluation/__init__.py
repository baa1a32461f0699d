"""What models cost and how good their results are, measured the same way for every model.

Names are loaded on first use: the command line reads `options`, which must not wait for torch.
"""

from typing import TYPE_CHECKING

from continuous_unet.base.lazy import lazy_names

__getattr__ = lazy_names(
    __name__,
    {
        "Latency": "continuous_unet.evaluation.costs.latency",
        "MacCount": "continuous_unet.evaluation.costs.macs",
        "ModelProfile": "continuous_unet.evaluation.costs.profile",
        "SavedBytes": "continuous_unet.evaluation.costs.memory",
        "count_macs": "continuous_unet.evaluation.costs.macs",
        "measure_latency": "continuous_unet.evaluation.costs.latency",
        "peak_memory": "continuous_unet.evaluation.costs.memory",
        "profile_model": "continuous_unet.evaluation.costs.profile",
        "saved_bytes": "continuous_unet.evaluation.costs.memory",
    },
)
__all__ = [
    "Latency",
    "MacCount",
    "ModelProfile",
    "SavedBytes",
    "count_macs",
    "measure_latency",
    "peak_memory",
    "profile_model",
    "saved_bytes",
]

if TYPE_CHECKING:
    from continuous_unet.evaluation.costs.latency import Latency, measure_latency
    from continuous_unet.evaluation.costs.macs import MacCount, count_macs
    from continuous_unet.evaluation.costs.memory import SavedBytes, peak_memory, saved_bytes
    from continuous_unet.evaluation.costs.profile import ModelProfile, profile_model
