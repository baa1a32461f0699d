"""What models cost, measured the same way for every model."""

from continuous_unet.evaluation.latency import Latency, measure_latency
from continuous_unet.evaluation.macs import MacCount, count_macs
from continuous_unet.evaluation.memory import SavedBytes, peak_memory, saved_bytes
from continuous_unet.evaluation.profile import ModelProfile, profile_model

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
