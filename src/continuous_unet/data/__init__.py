"""Images in, tensors out: one contract for every source.

Items are `{"image": float32 (C, H, W) in [-1, 1], "index": int, "unreadable": bool}`, with `"label": int` where the set
has classes. Data sets are indexed by `index` or by `(epoch, index)`; random flips and crops come from
`(seed, epoch, index)` alone.
"""

from continuous_unet.data.dataset import (
    DataCheck,
    ImageDataset,
    check_data,
    open_dataset,
    too_many_bad,
    train_validation_split,
)
from continuous_unet.data.loading import TrainingData
from continuous_unet.data.order import EpochSampler
from continuous_unet.data.report import DatasetReport

__all__ = [
    "DataCheck",
    "DatasetReport",
    "EpochSampler",
    "ImageDataset",
    "TrainingData",
    "check_data",
    "open_dataset",
    "too_many_bad",
    "train_validation_split",
]
