"""Pieces that need no training: speed and memory, gradient modes, and the kernels of a training step."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from pieces import Piece, side

from continuous_unet.base.devices import on_side_stream
from continuous_unet.diffusion.options import VariancePreservingOptions
from continuous_unet.models.build import build_unet

Step = Callable[[], object]


class Bench:
    """A model with what trains it, on random images that are on the device."""

    def __init__(self, piece: Piece, named: Any, batch: int, **changes: Any) -> None:
        what, size = side(named), piece.options.get("image_size", 64)
        self.device, on_gpu = piece.device, piece.device.type == "cuda"
        torch.manual_seed(0)
        arguments = {"sample_size": size, "in_channels": 3, "out_channels": 3, **what["model_options"], **changes}
        self.model = build_unet(what["preset"], **arguments).to(self.device)
        if on_gpu:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.parameters = list(self.model.parameters())
        self.averages = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, fused=True, capturable=on_gpu)
        self.process = VariancePreservingOptions().make()
        layout = torch.channels_last if on_gpu else torch.contiguous_format
        self.images = torch.randn(batch, 3, size, size, device=self.device).to(memory_format=layout)
        self.times = torch.full((batch,), 500, device=self.device)
        self.call: Any = self.model

    def infer(self) -> object:
        with torch.no_grad(), self.half():
            return self.call(self.images, self.times).sample

    def train(self) -> object:
        noise = torch.randn_like(self.images)
        times = self.process.draw_times(torch.rand(len(self.images), device=self.device))
        noised = self.process.add_noise(self.images, noise, times)
        with self.half():
            prediction = self.call(noised.x_t, times).sample
        torch.nn.functional.mse_loss(prediction.float(), noised.target).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            return torch._foreach_lerp_(self.averages, self.parameters, 1e-3)  # type: ignore[call-overload]

    def half(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def speed(self, step: Step, seconds: float) -> dict[str, float]:
        """Returns images per second, milliseconds, and the peak of the memory, after three steps that do not count."""
        for _ in range(3):
            step()
        self.wait()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        counts, started, found = 1, time.perf_counter(), []
        while time.perf_counter() - started < seconds or len(found) < 3:
            begun = time.perf_counter()
            for _ in range(counts):
                step()
            self.wait()
            elapsed = time.perf_counter() - begun
            found.append(elapsed / counts)
            counts = max(1, round(seconds / 8 / (elapsed / counts)))
        best = sorted(found)[len(found) // 2]
        row = {"images_per_second": len(self.images) / best, "milliseconds": best * 1000}
        if self.device.type == "cuda":
            row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        return row

    def captured(self, step: Step) -> Step:
        """Returns what replays a step as a CUDA graph."""
        for _ in range(3):
            on_side_stream(step)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay


def measure(piece: Piece, key: dict[str, Any], named: Any, *, what: str, mode: str, **changes: Any) -> None:
    """Writes a row of one combination, which says why if it failed; one that is there already is left out."""
    if piece.has(**key):
        return
    facts: dict[str, Any] = dict(key)
    try:
        bench = Bench(piece, named, key["batch"], **changes)
        facts["parameters"] = sum(p.numel() for p in bench.parameters)
        if mode == "compiled":
            bench.call = torch.compile(bench.model)
        step: Step = bench.train if what == "training" else bench.infer
        if what == "inference":
            bench.model.eval()
        started = time.perf_counter()
        step = bench.captured(step) if mode == "captured" else step
        facts |= bench.speed(step, piece.options.get("seconds", 2.0))
        facts["seconds"] = time.perf_counter() - started
    except Exception as error:  # one combination must not end the others: out of memory, a graph that cannot be made
        facts["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    piece.write(facts)
    torch._dynamo.reset()
    if piece.device.type == "cuda":
        torch.cuda.empty_cache()


def costs(piece: Piece) -> bool:
    """Measures sides at several batch sizes, eager, compiled and captured; True when nothing is left to do."""
    options = piece.options
    modes = [m for m in options["modes"] if m != "captured" or piece.device.type == "cuda"]
    for mode, what, batch, name in itertools.product(modes, options["what"], options["batches"], options["sides"]):
        if piece.left() < options.get("reserve", 20):
            return False
        key = {"side": name, "what": what, "mode": mode, "batch": batch}
        measure(piece, key, name, what=what, mode=mode)
    return True


def modes(piece: Piece) -> bool:
    """Measures the gradient modes by number of solver steps."""
    options = piece.options
    for steps, gradient in itertools.product(options["solver_steps"], options["gradients"]):
        if piece.left() < options.get("reserve", 20):
            return False
        key = {"gradient": gradient, "solver_steps": steps, "batch": options["batch"]}
        changes = {"gradient": gradient, "num_solver_steps": steps}
        measure(piece, key, options.get("side", "ours"), what="training", mode="eager", **changes)
    return True


def profile(piece: Piece) -> bool:
    """Writes the time of a training step by kernel, the longest first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiling

    on_gpu = piece.device.type == "cuda"
    for name in piece.options["sides"]:
        if piece.has(side=name) or piece.left() < piece.options.get("reserve", 20):
            continue
        bench = Bench(piece, name, piece.options["batch"])
        for _ in range(3):
            bench.train()
        bench.wait()
        with profiling(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
            bench.train()
            bench.wait()
        kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        events = sorted(found.key_averages(), key=lambda event: -getattr(event, kind))
        total = sum(getattr(event, kind) for event in events) or 1
        for event in events[: piece.options.get("kernels", 25)]:
            spent = getattr(event, kind)
            row = {"side": name, "kernel": event.key[:120], "calls": event.count, "ms": spent / 1000}
            piece.write({**row, "share": spent / total})
    return all(piece.has(side=name) for name in piece.options["sides"])
