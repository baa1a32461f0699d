"""What models cost, measured the same way for every model."""

from continuous_unet.evaluation.costs.latency import Latency, measure_latency
from continuous_unet.evaluation.costs.macs import MacCount, count_macs
from continuous_unet.evaluation.costs.memory import SavedBytes, peak_memory, saved_bytes
from continuous_unet.evaluation.costs.profile import ModelProfile, profile_model

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
