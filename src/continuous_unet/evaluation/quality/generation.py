"""FID and KID with a named feature extractor: a small classifier trained here on the data at hand, or Inception.

The distances themselves are torchmetrics'. A classifier's features depend on the data and on its training, so its
distances compare the sides of one comparison with each other and with the real-versus-real floor, and with nothing
else.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from continuous_unet.base.errors import InputError
from continuous_unet.base.randomness import derive_seed
from continuous_unet.data import EpochSampler, ImageDataset

BATCH = 128
KID_SUBSETS = 50


class SmallClassifier(nn.Module):
    """Four 3x3 convolutions, three halving the size, and the mean over the pixels: 64 features; then classes."""

    num_features = 64

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(self.num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [-1, 1] to features `(B, 64)`."""
        return self.convolutions(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Class scores `(B, K)`."""
        return self.head(self.features(images))


@dataclass(frozen=True)
class Extractor:
    """What turns images `(B, C, H, W)` in [-1, 1] into features `(B, F)`."""

    features: Callable[[Tensor], Tensor]
    name: str
    """What it is, for the report: it goes beside every distance."""


def train_classifier(
    data: ImageDataset, held_out: ImageDataset, *, steps: int, seed: int, device: torch.device, path: Path
) -> dict[str, Any]:
    """Train the small classifier and write it to `path` (safetensors).

    On the classes of the data; where it has none, on telling by how many quarter turns an image was rotated.

    Args:
        data: images to train on.
        held_out: images to measure the accuracy on.
        steps: of AdamW, batches of 128.
        seed: of weights and order.
        device: where to compute.
        path: of the file.

    Returns:
        `task`, `num_classes`, `accuracy` on the held-out images, `steps`.
    """
    task = "classes" if data.num_classes is not None and data.num_classes > 1 else "rotations"
    num_classes = data.num_classes if task == "classes" else 4
    torch.manual_seed(derive_seed("extractor", seed))
    model = SmallClassifier(data.report.channels, int(num_classes or 4)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    sampler = EpochSampler(len(data), BATCH, seed=derive_seed("extractor order", seed) % 2**31)
    model.train()
    for _, keys in zip(range(steps), sampler, strict=False):
        images, labels = _labelled([data[key] for key in keys], task)
        loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    right = total = 0
    with torch.no_grad():
        for start in range(0, len(held_out), BATCH):
            items = [held_out[i] for i in range(start, min(start + BATCH, len(held_out)))]
            images, labels = _labelled(items, task)
            right += int((model(images.to(device)).argmax(1).cpu() == labels).sum())
            total += len(labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, path)
    return {"task": task, "num_classes": num_classes, "accuracy": right / total, "steps": steps}


def _labelled(items: list[dict[str, Any]], task: str) -> tuple[Tensor, Tensor]:
    images = torch.stack([item["image"] for item in items])
    if task == "classes":
        return images, torch.tensor([item["label"] for item in items])
    turns = torch.tensor([derive_seed("turn", item["index"]) % 4 for item in items])
    turned = [torch.rot90(image, int(turn), dims=(1, 2)) for image, turn in zip(images, turns, strict=True)]
    return torch.stack(turned), turns


def load_classifier(path: Path, facts: dict[str, Any], channels: int, device: torch.device) -> Extractor:
    """The trained classifier as an extractor; `facts` is what `train_classifier` returned."""
    model = SmallClassifier(channels, facts["num_classes"])
    model.load_state_dict(load_file(path))
    model.to(device).eval()
    what = f"{facts['num_classes']} classes" if facts["task"] == "classes" else "quarter turns"
    name = f"small classifier trained here ({what}, {facts['accuracy']:.1%} right), 64 features"
    return Extractor(torch.no_grad()(model.features), name)


def load_inception(device: torch.device) -> Extractor:
    """Inception v3 as FID is usually computed, from torch-fidelity, which fetches its weights.

    Raises:
        InputError: if torch-fidelity, or its weights, cannot be had.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        model = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).to(device).eval()
    except (
        Exception
    ) as error:  # torchvision beside another build of torch fails with a RuntimeError, downloads with any
        raise InputError(
            f"extractor=inception cannot be had ({error}); pip install torch-fidelity and let it fetch its weights, "
            "or use --extractor classifier"
        ) from error

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        if pixels.shape[1] == 1:  # grey images count as RGB ones with equal channels
            pixels = pixels.expand(-1, 3, -1, -1)
        return model(pixels[:, :3])[0]

    return Extractor(features, "Inception v3 (torch-fidelity), 2048 features")


def load_extractor(classifier: tuple[str, dict[str, Any], int] | None, device: torch.device) -> Extractor:
    """The classifier of `(file, what train_classifier returned, channels)`, or Inception if None."""
    if classifier is None:
        return load_inception(device)
    path, facts, channels = classifier
    return load_classifier(Path(path), facts, channels, device)


def real_features(data: ImageDataset, numbers: list[int], extractor: Extractor, device: torch.device) -> Tensor:
    """Features `(N, F)` of some images of a data set, without augmentation."""
    parts = []
    for start in range(0, len(numbers), BATCH):
        images = torch.stack([data[i]["image"] for i in numbers[start : start + BATCH]])
        parts.append(extractor.features(images.to(device)).cpu())
    return torch.cat(parts)


def fake_features(images: Iterator[Tensor], extractor: Extractor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features `(N, F)` of batches of images in [0, 1], and the first 64 images.

    The images are rounded to 8 bits first, as they would be in a file.
    """
    parts: list[Tensor] = []
    kept: list[Tensor] = []
    for batch in images:
        rounded = (batch * 255).round() / 255
        parts.append(extractor.features((rounded * 2 - 1).to(device)).cpu())
        if sum(len(k) for k in kept) < 64:
            kept.append(rounded.cpu())
    return torch.cat(parts), torch.cat(kept)[:64]


def distances(real: Tensor, fake: Tensor) -> dict[str, float]:
    """FID and KID between features `(N, F)` and `(M, F)`; the KID as mean and deviation over subsets.

    Raises:
        InputError: for fewer than 100 features on a side.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    if min(len(real), len(fake)) < 100:
        raise InputError(f"{len(real)} and {len(fake)} images are too few for a distance; at least 100 are needed")
    identity = nn.Identity()
    identity.num_features = real.shape[1]  # type: ignore[assignment]  # torchmetrics asks for it
    subset = min(1000, min(len(real), len(fake)) // 2)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that KID keeps features, which it is given here anyway
        torch.manual_seed(0)  # KID draws its subsets from torch's global generator
        fid = FrechetInceptionDistance(feature=identity)
        kid = KernelInceptionDistance(feature=identity, subsets=KID_SUBSETS, subset_size=subset)
        for metric in (fid, kid):
            metric.update(real, real=True)
            metric.update(fake, real=False)
        mean, deviation = kid.compute()
        return {"fid": float(fid.compute()), "kid": float(mean), "kid_std": float(deviation)}
