"""Inception v3, with which FID is usually computed, from torch-fidelity, which downloads its weights."""

from pathlib import Path

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.evaluation.quality.extractors import Extractor, Facts


class Inception(Extractor):
    """Computes features with the network; `path` and `facts` are not used.

    Raises:
        InputError: if torch-fidelity, or its weights, are unavailable.
    """

    name = "Inception v3 (torch-fidelity), 2048 features"

    def __init__(self, path: Path, facts: Facts, device: torch.device) -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

            self.model = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).to(device).eval()
        except Exception as error:  # a torchvision for another build of torch, or a download, fails with any exception
            raise InputError(
                f"--extractor inception is unavailable ({first_line(error)}); pip install torch-fidelity and let it "
                "download its weights, or use --extractor classifier"
            ) from error

    @classmethod
    def check(cls, device: torch.device) -> None:
        cls(Path(), {}, device)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        if pixels.shape[1] == 1:  # grey images count as RGB ones with equal channels
            pixels = pixels.expand(-1, 3, -1, -1)
        return self.model(pixels[:, :3])[0]
