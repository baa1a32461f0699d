"""How fast images are read and prepared, by number of workers, beside how fast a model takes them.

    python benchmarks/loading.py        # rows to benchmarks/results/loading.csv

Photographs of ordinary size (JPEG, 640x480) are decoded, cropped and shrunk to 64x64 by the loader that training uses;
the model is the preset `base`, in training steps of 32 images. Both are timed in turns, and each round gives a ratio.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rows import write

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.data import open_dataset
from continuous_unet.diffusion.options import VariancePreservingOptions
from continuous_unet.models import presets

BATCH = 32


def photographs(folder: Path, number: int) -> None:
    """Writes images of smooth colours with some grain, which compress about as photographs do (60 to 90 kB)."""
    rng = np.random.default_rng(0)
    for i in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC))
        pixels = np.clip(smooth + rng.normal(0, 8, (480, 640, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=88)


def training_speed(model: ContinuousUNet2DModel, batches: int) -> float:
    """Returns images per second of forward, backward and update, on images that are in memory."""
    process, optimizer = VariancePreservingOptions().make(), torch.optim.AdamW(model.parameters())
    images = torch.randn(BATCH, 3, 64, 64)
    started = time.perf_counter()
    for _ in range(batches):
        times = process.draw_times(torch.rand(BATCH))
        noised = process.add_noise(images, torch.randn_like(images), times)
        torch.nn.functional.mse_loss(model(noised.x_t, times).sample, noised.target).backward()
        optimizer.step()
        optimizer.zero_grad()
    return BATCH * batches / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=16, help="in each round")
    arguments = parser.parse_args()
    model = ContinuousUNet2DModel(**presets.base(sample_size=64)).train()
    with tempfile.TemporaryDirectory() as name:
        photographs(Path(name), 256)
        dataset = open_dataset(name, image_size=64, random_flip=True, random_crop=True, progress=False)
        loaders = {}
        for workers in (0, 1, 2):
            loaders[workers] = dataset.loader(BATCH, num_workers=workers)
            next(loaders[workers])  # workers have started
        speeds: dict[int, list[float]] = {workers: [] for workers in loaders}
        trained = []
        training_speed(model, 1)
        for _ in range(arguments.rounds):
            trained.append(training_speed(model, 2))
            for workers, loader in loaders.items():
                # what workers have prepared while others were timed does not count
                for _ in itertools.islice(loader, 2 * workers):
                    pass
                started = time.perf_counter()
                for _ in itertools.islice(loader, arguments.batches):
                    pass
                speeds[workers].append(BATCH * arguments.batches / (time.perf_counter() - started))
        for loader in loaders.values():
            loader.close()  # before the folder goes: workers would read on
    rows = []
    for workers, found in speeds.items():
        ratio = statistics.median(loaded / taken for loaded, taken in zip(found, trained, strict=True))
        row = {
            "workers": workers,
            "images_per_second": round(statistics.median(found), 1),
            "to_training": round(ratio, 1),
        }
        row |= {"training_images_per_second": round(statistics.median(trained), 1), "cores": os.cpu_count()}
        row |= {"torch": torch.__version__}
        rows.append(row)
        print(row)
    write(arguments.output / "loading.csv", rows)


if __name__ == "__main__":
    main()
