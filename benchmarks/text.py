"""Measures the share of samples that match their prompt, on the built-in set of scenes.

    python benchmarks/text.py check                       # the program that finds the shapes, on drawn scenes
    python benchmarks/text.py matches runs/text-scenes    # share of samples that match, by guidance scale; a grid

Rows go to results/text-*.csv, the grid to docs/images/text-scenes.png.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from rows import write

from continuous_unet.base.randomness import derive_seed
from continuous_unet.data.sources.scenes import OPPOSITES, SHAPES, Scene, draw, scenes_of
from continuous_unet.diffusion.process import process_of
from continuous_unet.evaluation.quality.captions import matches
from continuous_unet.images.grids import make_grid
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
from continuous_unet.tasks.loading import load_pipeline

ROOT = Path(__file__).parents[1]
RESULTS, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
DEGRADED = {"clean": (0.0, 0.0), "noisy": (0.05, 0.0), "blurred": (0.0, 0.7)}
"""Standard deviation of noise, of a range of 1, and radius of a blur in pixels."""


def check(number: int) -> None:
    """The share of right captions that are accepted, and of wrong ones, with one thing changed."""
    rng, rows = np.random.default_rng(0), []
    scenes = [*scenes_of("train"), *scenes_of("test")]
    for how, (noise, blur) in DEGRADED.items():
        right = wrong = asked = 0
        for i in range(number):
            scene = scenes[rng.integers(len(scenes))]
            image = draw(scene, derive_seed("check", i)).filter(ImageFilter.GaussianBlur(blur))
            pixels = np.clip(np.asarray(image) / 255 + rng.normal(0, noise, (32, 32, 3)), 0, 1)
            right += matches(pixels, str(scene))
            for other in changed(scene, rng):
                wrong, asked = wrong + matches(pixels, str(other)), asked + 1
        rows.append(
            {"images": how, "scenes": number, "right_accepted": right / number, "wrong_accepted": wrong / asked}
        )
        print(rows[-1], flush=True)
    write(RESULTS / "text-check.csv", rows)


def changed(scene: Scene, rng: np.random.Generator) -> Iterator[Scene]:
    """Captions that differ in one thing."""
    others = [shape for shape in SHAPES if shape not in (scene.first, scene.second)]
    yield Scene(others[rng.integers(len(others))], scene.relation, scene.second)
    if scene.second is None or scene.relation is None:
        return
    yield Scene(scene.first, OPPOSITES[scene.relation], scene.second)
    yield Scene(scene.second, scene.relation, scene.first)
    yield Scene(scene.first)


def sample(pipeline: DiffusionSamplingPipeline, prompts: list[str], steps: int, scale: float, seed: int) -> np.ndarray:
    """Samples one image for each prompt: `(N, H, W, 3)` in [0, 1]."""
    made = []
    for start in range(0, len(prompts), 64):
        part = prompts[start : start + 64]
        generators = [torch.Generator().manual_seed(derive_seed("sample", seed, start + i)) for i in range(len(part))]
        images = pipeline(len(part), generators, steps, prompt=part, guidance_scale=scale, output_type="np")
        made.append(images.images)
    return np.concatenate(made)


def measure_matches(run: str, number: int, scales: list[float], steps: int, seed: int) -> None:
    """Samples of captions of both splits, checked by the program."""
    pipeline = load_pipeline(run)
    pipeline.scheduler = process_of(pipeline.scheduler).make_sampler("ddim")
    pipeline.set_progress_bar_config(disable=True)
    rows: list[dict[str, Any]] = []
    for split, name in (("train", "seen"), ("test", "never seen")):
        captions = [str(scene) for scene in scenes_of(split) if scene.second is not None]
        order = np.random.default_rng(seed).permutation(len(captions))
        prompts = [captions[order[i % len(order)]] for i in range(number)]
        for scale in scales:
            started = time.perf_counter()
            images = sample(pipeline, prompts, steps, scale, seed)
            seconds = time.perf_counter() - started
            share = float(np.mean([matches(image, prompt) for image, prompt in zip(images, prompts, strict=True)]))
            margin = 1.96 * math.sqrt(share * (1 - share) / number)
            row = {"run": Path(run).name, "pairs": name, "guidance": scale, "sampling_steps": steps}
            rows.append({**row, "samples": number, "matches": share, "margin_95": margin})
            print(rows[-1], f"{seconds:.0f} s", flush=True)
            write(RESULTS / "text-matches.csv", rows)
    best = max((row for row in rows if row["pairs"] == "never seen"), key=lambda row: row["matches"])
    draw_grid(pipeline, steps, best["guidance"], seed)


def draw_grid(pipeline: DiffusionSamplingPipeline, steps: int, scale: float, seed: int) -> None:
    """A row of eight samples for each of eight captions whose shapes the model never saw together."""
    captions = [str(scene) for scene in scenes_of("test")]
    prompts = [captions[i] for i in np.random.default_rng(seed + 1).choice(len(captions), 8, replace=False)]
    images = sample(pipeline, [prompt for prompt in prompts for _ in range(8)], steps, scale, seed + 1)
    found = torch.from_numpy(images).permute(0, 3, 1, 2)
    IMAGES.mkdir(exist_ok=True)
    make_grid(found, columns=8, row_labels=prompts).quantize(128, dither=Image.Dither.NONE).save(
        IMAGES / "text-scenes.png", optimize=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "matches"))
    parser.add_argument("run", nargs="?", default="runs/text-scenes")
    parser.add_argument("--num", type=int, default=416)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0, 5.0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.what == "check":
        check(options.num)
    else:
        measure_matches(options.run, options.num, options.guidance, options.steps, options.seed)


if __name__ == "__main__":
    main()
