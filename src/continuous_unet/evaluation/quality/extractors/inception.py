"""Inception v3, with which FID is usually computed, from torch-fidelity, which downloads its weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.evaluation.quality.extractors import Extractor, Facts


def check(device: torch.device) -> None:
    """Loads the network once, so that missing weights are noticed before anything else is computed."""
    load(Path(), {}, device)


def prepare(*_: Any, **__: Any) -> Facts:
    """Returns no facts: nothing is trained."""
    return {}


def load(path: Path, facts: Facts, device: torch.device) -> Extractor:
    """Returns the network, whose weights do not depend on `path` and `facts`.

    Raises:
        InputError: if torch-fidelity, or its weights, are unavailable.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        model = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).to(device).eval()
    except Exception as error:  # torchvision beside another build of torch, or a download, fails with any exception
        raise InputError(
            f"--extractor inception is unavailable ({first_line(error)}); pip install torch-fidelity and let it "
            "download its weights, or use --extractor classifier"
        ) from error

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        if pixels.shape[1] == 1:  # grey images count as RGB ones with equal channels
            pixels = pixels.expand(-1, 3, -1, -1)
        return model(pixels[:, :3])[0]

    return Extractor(features, "Inception v3 (torch-fidelity), 2048 features")
