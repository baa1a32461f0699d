"""Images in, tensors out: one contract for every source.

Items are `{"image": float32 (C, H, W) in [-1, 1], "index": int, "unreadable": bool}`, with `"label": int` if the set
has classes. Data sets are indexed by `index` or by `(epoch, index)`; random flips and crops come from
`(seed, epoch, index)` alone. Names are loaded on first use: `options` must be readable without torch.
"""

from typing import TYPE_CHECKING

from continuous_unet.base.lazy import lazy_names

if TYPE_CHECKING:
    from continuous_unet.data.dataset import ImageDataset as ImageDataset
    from continuous_unet.data.dataset import open_dataset as open_dataset
    from continuous_unet.data.dataset import train_validation_split as train_validation_split
    from continuous_unet.data.loading import TrainingData as TrainingData
    from continuous_unet.data.order import EpochSampler as EpochSampler
    from continuous_unet.data.report import DatasetReport as DatasetReport

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".dataset": ["ImageDataset", "open_dataset", "train_validation_split"],
        ".loading": ["TrainingData"],
        ".order": ["EpochSampler"],
        ".report": ["DatasetReport"],
    },
)
