"""A small classifier trained on the real images at hand.

Its features depend on the data and on its training. Its distances compare models on the same data with each other and
with the distance between two sets of real images, and with nothing else.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from continuous_unet.base.randomness import derive_seed
from continuous_unet.data import EpochSampler
from continuous_unet.evaluation.quality.extractors import Extractor, Facts, Preparation

BATCH = 128


class SmallClassifier(nn.Module):
    """Four 3x3 convolutions, three of which halve the size, and the mean over the pixels: 64 features; then classes."""

    num_features = 64

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((channels, 32, 1), (32, 64, 2), (64, 64, 2), (64, 64, 2)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Linear(self.num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Returns features `(B, 64)` of images `(B, C, H, W)` in [-1, 1]."""
        return self.convolutions(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Returns class scores `(B, K)`."""
        return self.head(self.features(images))


class Classifier(Extractor):
    """Computes features with the trained classifier, which is read from its file."""

    def __init__(self, path: Path, facts: Facts, device: torch.device) -> None:
        weights = load_file(path)
        model = SmallClassifier(weights["convolutions.0.weight"].shape[1], len(weights["head.bias"]))
        model.load_state_dict(weights)
        self.model = model.to(device).eval()
        what = f"{facts['num_classes']} classes" if facts["task"] == "classes" else "quarter turns"
        self.name = f"small classifier trained here ({what}, {facts['accuracy']:.1%} right), 64 features"

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        return self.model.features(images)

    @classmethod
    def prepare(cls, given: Preparation) -> Facts:
        """Trains the classifier on the classes of the data, or, without classes, on telling quarter turns apart.

        Returns:
            `task`, `num_classes`, `accuracy` on the held-out images, `steps`.
        """
        data, held_out, device, seed = given.data, given.held_out, given.device, given.seed
        task = "classes" if data.num_classes is not None and data.num_classes > 1 else "rotations"
        num_classes = data.num_classes if task == "classes" else 4
        torch.manual_seed(derive_seed("extractor", seed))
        model = SmallClassifier(data.report.channels, int(num_classes or 4)).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=given.steps)
        sampler = EpochSampler(len(data), BATCH, seed=derive_seed("extractor order", seed) % 2**31)
        model.train()
        for _, keys in zip(range(given.steps), sampler, strict=False):
            given.before_step()
            images, labels = _labelled([data[key] for key in keys], task)
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        right = 0
        with torch.no_grad():
            for start in range(0, len(held_out), BATCH):
                items = [held_out[i] for i in range(start, min(start + BATCH, len(held_out)))]
                images, labels = _labelled(items, task)
                right += int((model(images.to(device)).argmax(1).cpu() == labels).sum())
        given.path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, given.path)
        return {"task": task, "num_classes": num_classes, "accuracy": right / len(held_out), "steps": given.steps}


def _labelled(items: list[dict[str, Any]], task: str) -> tuple[Tensor, Tensor]:
    images = torch.stack([item["image"] for item in items])
    if task == "classes":
        return images, torch.tensor([item["label"] for item in items])
    turns = torch.tensor([derive_seed("turn", item["index"]) % 4 for item in items])
    turned = [torch.rot90(image, int(turn), dims=(1, 2)) for image, turn in zip(images, turns, strict=True)]
    return torch.stack(turned), turns
