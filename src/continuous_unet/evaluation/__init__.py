"""What models cost and how good their results are, measured the same way for every model.

Names are loaded on first use: the command line reads `options`, which must not wait for torch.
"""

from typing import TYPE_CHECKING

from continuous_unet.base.lazy import lazy_names

if TYPE_CHECKING:
    from continuous_unet.evaluation.costs.latency import Latency as Latency
    from continuous_unet.evaluation.costs.latency import measure_latency as measure_latency
    from continuous_unet.evaluation.costs.macs import MacCount as MacCount
    from continuous_unet.evaluation.costs.macs import count_macs as count_macs
    from continuous_unet.evaluation.costs.memory import SavedBytes as SavedBytes
    from continuous_unet.evaluation.costs.memory import peak_memory as peak_memory
    from continuous_unet.evaluation.costs.memory import saved_bytes as saved_bytes
    from continuous_unet.evaluation.costs.profile import ModelProfile as ModelProfile
    from continuous_unet.evaluation.costs.profile import profile_model as profile_model

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".costs.latency": ["Latency", "measure_latency"],
        ".costs.macs": ["MacCount", "count_macs"],
        ".costs.memory": ["SavedBytes", "peak_memory", "saved_bytes"],
        ".costs.profile": ["ModelProfile", "profile_model"],
    },
)
