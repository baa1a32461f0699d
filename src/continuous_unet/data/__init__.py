"""Images in, tensors out: one contract for every source.

Items are `{"image": float32 (C, H, W) in [-1, 1], "index": int, "unreadable": bool}`, with `"label": int` if the set
has classes. Data sets are indexed by `index` or by `(epoch, index)`; random flips and crops come from
`(seed, epoch, index)` alone. Names are loaded on first use: `options` must be readable without torch.
"""

from typing import TYPE_CHECKING

from continuous_unet.base.lazy import lazy_names

__getattr__ = lazy_names(
    __name__,
    {
        "DatasetReport": "continuous_unet.data.report",
        "EpochSampler": "continuous_unet.data.order",
        "ImageDataset": "continuous_unet.data.dataset",
        "TrainingData": "continuous_unet.data.loading",
        "open_dataset": "continuous_unet.data.dataset",
        "train_validation_split": "continuous_unet.data.dataset",
    },
)
__all__ = ["DatasetReport", "EpochSampler", "ImageDataset", "TrainingData", "open_dataset", "train_validation_split"]

if TYPE_CHECKING:
    from continuous_unet.data.dataset import ImageDataset, open_dataset, train_validation_split
    from continuous_unet.data.loading import TrainingData
    from continuous_unet.data.order import EpochSampler
    from continuous_unet.data.report import DatasetReport
