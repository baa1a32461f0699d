"""A classifier trained on the real images at hand.

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
SHIFT = 2
"""Largest shift in pixels, in each direction, of the images that the classifier is trained on."""
Layers = tuple[tuple[int, int, int], ...]
"""Outputs, kernel size and stride of each convolution."""
LAYERS: Layers = ((32, 5, 2), (64, 3, 1), (64, 3, 2), (128, 3, 1), (128, 3, 2))
SMALL_LAYERS: Layers = ((32, 3, 1), (64, 3, 2), (64, 3, 2), (64, 3, 2))
"""The network of version 0.1.0, by which the stored comparisons were measured."""


class ClassifierNetwork(nn.Module):
    """Convolutions, each with a batch norm and a ReLU, and the mean over the pixels: the features. Then classes.

    Args:
        channels: channels of the images.
        num_classes: number of classes.
        layers: outputs, kernel size and stride of each convolution.
    """

    def __init__(self, channels: int, num_classes: int, layers: Layers) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        inputs = channels
        for outputs, kernel, stride in layers:
            modules += [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        self.num_features = inputs
        self.convolutions = nn.Sequential(*modules)
        self.head = nn.Linear(inputs, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Returns features `(B, F)` of images `(B, C, H, W)` in [-1, 1]."""
        return self.convolutions(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Returns class scores `(B, K)`."""
        return self.head(self.features(images))


class Classifier(Extractor):
    """Computes features with the trained classifier, which is read from its file; also that of `SmallClassifier`."""

    layers = LAYERS
    highest_rate = 6e-3
    shift = SHIFT

    def __init__(self, path: Path, facts: Facts, device: torch.device) -> None:
        weights = load_file(path)
        small = weights["convolutions.0.weight"].shape[-1] == SMALL_LAYERS[0][1]
        layers = SMALL_LAYERS if small else LAYERS
        model = ClassifierNetwork(weights["convolutions.0.weight"].shape[1], len(weights["head.bias"]), layers)
        model.load_state_dict(weights)
        self.model = model.to(device).eval()
        what = f"{facts['num_classes']} classes" if facts["task"] == "classes" else "quarter turns"
        size = "small classifier" if small else "classifier"
        self.name = f"{size} trained here ({what}, {facts['accuracy']:.1%} right), {model.num_features} features"

    @torch.no_grad()
    def classes(self, images: Tensor) -> Tensor:
        """Returns the class `(B,)` of each image `(B, C, H, W)` in [-1, 1]."""
        return self.model(images).argmax(1)

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
        model = ClassifierNetwork(data.report.channels, int(num_classes or 4), cls.layers).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, cls.highest_rate, total_steps=given.steps)
        sampler = EpochSampler(len(data), BATCH, seed=derive_seed("extractor order", seed) % 2**31)
        generator = torch.Generator().manual_seed(derive_seed("extractor shifts", seed))
        model.train()
        for _, keys in zip(range(given.steps), sampler, strict=False):
            given.before_step()
            images, labels = _labelled([data[key] for key in keys], task)
            images = _shifted(images, cls.shift, generator)
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


class SmallClassifier(Classifier):
    """The classifier of version 0.1.0: fewer layers, 64 features, no shifts. It repeats what was measured by it."""

    layers = SMALL_LAYERS
    highest_rate = 4e-3
    shift = 0


def _shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Returns images, each moved by at most `most` pixels, with its border repeated."""
    if most == 0:
        return images
    height, width = images.shape[2:]
    padded = nn.functional.pad(images, (most,) * 4, mode="replicate")
    places = torch.randint(2 * most + 1, (len(images), 2), generator=generator).tolist()
    moved = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, places, strict=True)]
    return torch.stack(moved)


def _labelled(items: list[dict[str, Any]], task: str) -> tuple[Tensor, Tensor]:
    images = torch.stack([item["image"] for item in items])
    if task == "classes":
        return images, torch.tensor([item["label"] for item in items])
    turns = torch.tensor([derive_seed("turn", item["index"]) % 4 for item in items])
    turned = [torch.rot90(image, int(turn), dims=(1, 2)) for image, turn in zip(images, turns, strict=True)]
    return torch.stack(turned), turns
