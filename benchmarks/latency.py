"""Measures the latency of one 32x32 image: ours, the weight-tied control and the discrete U-Net, each prepared alike.

    python benchmarks/latency.py               # rows to benchmarks/results/latency.csv, about half a minute
    python benchmarks/latency.py --compiled    # with torch.compile as well: some minutes for the compiler

`eager` is a model as it is made. `channels-last` has weights and images in that memory format. `precomputed` is that
with the embeddings of the timestep computed before, as sampling does; the discrete U-Net has no such thing and stays as
it is. `convolutions` runs the convolutions of `channels-last` and nothing else: its ratio is what would be left if all
other operations took no time. `compiled` is channels-last under `torch.compile` with frozen weights. All of them run in
turns, in a process for each number of threads. Ratios are to the discrete U-Net with the same preparation in the same
round. Nothing is trained; layers that start at zero get random weights.
"""

import argparse
import copy
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import replace_rows
from torch import nn

from continuous_unet.evaluation import measure_latency
from continuous_unet.models.build import build_unet

SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "UNet2DModel": ("ddpm_small", {}),
    "ours": ("small", {}),
    "weight-tied control": ("small", {"block_type": "residual"}),
}


def make(preset: str, arguments: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = build_unet(preset, in_channels=1, out_channels=1, sample_size=32, **arguments).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model


def convolutions(model: nn.Module, sample: torch.Tensor) -> Callable[[], object]:
    """Returns a function that runs the convolutions of one evaluation, one after the other."""
    found: list[tuple[nn.Module, torch.Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, _: found.append((module, inputs[0])))
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        model(sample, 500)
    for hook in hooks:
        hook.remove()
    return lambda: [module(inputs) for module, inputs in found]


def calls(side: str, compiled: bool) -> dict[str, Callable[[], object]]:
    """Returns evaluations of one image by preparation."""
    model = make(*SIDES[side])
    sample = torch.randn(1, 1, 32, 32)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    in_last = sample.to(memory_format=torch.channels_last)
    known = {"embeddings": last.precompute_embeddings([500.0])} if hasattr(last, "precompute_embeddings") else {}
    found: dict[str, Callable[[], object]] = {
        "eager": lambda: model(sample, 500),
        "channels-last": lambda: last(in_last, 500),
        "precomputed": lambda: last(in_last, 500, **known),
        "convolutions": convolutions(last, in_last),
    }
    if compiled:
        # a timestep in a tensor: a number would be compiled into the graph
        graph, timestep = torch.compile(last, dynamic=False, fullgraph=True), torch.tensor(500)
        found["compiled"] = lambda: graph(in_last, timestep, return_dict=False)
    return found


def measure(threads: int, repeats: int, compiled: bool) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    if compiled:
        from torch._inductor import config

        config.freezing = True
    by_side = {side: calls(side, compiled) for side in SIDES}
    rows = []
    with torch.no_grad():
        for preparation in by_side["ours"]:
            functions = {side: own[preparation] for side, own in by_side.items()}
            for side, time in measure_latency(functions, repeats=repeats, warmup=5).items():
                row = {"threads": threads, "preparation": preparation, "side": side}
                row |= {"latency_ms": time.median_ms, "p25_ms": time.p25_ms, "p75_ms": time.p75_ms}
                row |= {"ratio": time.ratio, "ratio_p25": time.ratio_p25, "ratio_p75": time.ratio_p75}
                rows.append(row | {"repeats": repeats, "torch": torch.__version__})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the rows")
    parser.add_argument("--repeats", type=int, default=50, help="timed rounds")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to measure with")
    parser.add_argument("--compiled", action="store_true", help="measure torch.compile as well")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for threads in arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # compiled code is made for a number of threads
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows += pool.apply(measure, (threads, arguments.repeats, arguments.compiled))
    for row in rows:
        spread = f"{row['ratio']:.3f} ({row['ratio_p25']:.3f} to {row['ratio_p75']:.3f})"
        print(f"{row['threads']} threads, {row['preparation']}, {row['side']}: {row['latency_ms']:.2f} ms, {spread}")
    replace_rows(arguments.output / "latency.csv", rows, "threads", "preparation", "side")


if __name__ == "__main__":
    main()
