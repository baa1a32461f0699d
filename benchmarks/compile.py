"""What `--compile` gains and costs: the first training step, and those after it, of a model that is compiled or not.

    python benchmarks/compile.py        # rows to benchmarks/results/compile.csv, about five minutes on one thread

The ways to compile are `blocks` (repeated blocks once) and `model` (all of it), as `--compile-scope` names them. The
first step of each begins without anything that an earlier compilation has kept. The later steps take turns.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rows import write

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.models import presets
from continuous_unet.training.run import with_compiled_blocks

WAYS = ("none", "blocks", "model")


def compiled(model: torch.nn.Module, way: str) -> torch.nn.Module:
    """Returns a model that is compiled at its first call."""
    if way == "model":
        return torch.compile(model)  # type: ignore[return-value]
    return (with_compiled_blocks(model) or model) if way == "blocks" else model


def step(model: torch.nn.Module, images: torch.Tensor, times: torch.Tensor) -> float:
    """Computes a loss and its gradient; returns the seconds."""
    started = time.perf_counter()
    model(images, times).sample.square().mean().backward()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the rows")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size = options.image_size
    arguments = presets.PRESETS[options.preset](sample_size=size) | {"in_channels": 1, "out_channels": 1}
    images = torch.randn(options.batch_size, 1, size, size)
    times = torch.randint(0, 1000, (options.batch_size,))
    models, first, later = {}, {}, {way: [] for way in WAYS}
    for way in WAYS:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            models[way] = compiled(ContinuousUNet2DModel(**arguments).train(), way)
            first[way] = step(models[way], images, times)
            step(models[way], images, times)
        print(way, f"first step {first[way]:.1f} s", flush=True)
    for number in range(options.rounds):
        for place in range(len(WAYS)):  # each is first, second and last as many times
            way = WAYS[(number + place) % len(WAYS)]
            later[way].append(step(models[way], images, times))
    rows = []
    for way in WAYS:
        shares = sorted(a / b for a, b in zip(later[way], later["none"], strict=True))
        rows.append(
            {
                "compiled": way,
                "first_step_seconds": round(first[way], 2),
                "step_seconds": round(statistics.median(later[way]), 4),
                "of_none": round(statistics.median(shares), 3),
                "least": round(shares[0], 3),
                "most": round(shares[-1], 3),
                "preset": options.preset,
                "image_size": size,
                "batch_size": options.batch_size,
                "rounds": options.rounds,
                "threads": options.threads,
                "torch": torch.__version__,
            }
        )
        print(rows[-1])
    write(options.output / "compile.csv", rows)


if __name__ == "__main__":
    main()
