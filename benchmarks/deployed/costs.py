"""What each form costs: its size and errors, its latency, and the time of its operators."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deployed.bench import EXPORTS, SIDES, Bench, timed
from torch import Tensor

from continuous_unet.evaluation import measure_latency

REST = 0.2
"""Seconds to sleep, followed by an untimed call, before each timed call with several threads. ONNX Runtime's threads
keep spinning for more than 20 ms (measured), and would make the next runtime two to three times as slow.
"""


def exports(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields the size of every file, and its worst error relative to PyTorch in a sampling run from the same noise."""
    for side in SIDES:
        for form, precision in EXPORTS:
            folder = bench.export(side, form, precision)
            if folder is None:
                print(f"{form}: not installed, left out")
                continue
            info = json.loads((folder / "export.json").read_text(encoding="utf-8"))
            parity = info["parity"]
            yield {
                "side": side, "variant": f"{form} {precision}", "bytes": info["size_bytes"],
                "parameters": info["model"]["parameters"],
                "error": max(entry["max_error"] for entry in parity["inputs"]),
                "error_sampling": parity["full_sampling"]["max_error"], "steps": parity["full_sampling"]["steps"],
            }  # fmt: skip


def torch_variants(unet: Any, inputs: tuple[Tensor, ...]) -> dict[str, Callable[[], Any]]:
    """Returns calls for PyTorch's own ways to run a model, each on a copy of its own."""
    copies = {name: load_copy(unet) for name in ("eager", "channels_last", "compiled", "compiled bf16")}
    copies["channels_last"] = copies["channels_last"].to(memory_format=torch.channels_last)
    copies["compiled"].compile()
    half = copies["compiled bf16"].to(torch.bfloat16)
    half.compile()
    sample, timestep = inputs
    given = {name: sample for name in copies}
    given["channels_last"] = sample.to(memory_format=torch.channels_last)
    given["compiled bf16"] = sample.to(torch.bfloat16)
    return {name: lambda name=name: copies[name](given[name], timestep).sample for name in copies}


def load_copy(unet: Any) -> Any:
    copy = type(unet)(**{name: value for name, value in unet.config.items() if not name.startswith("_")})
    copy.load_state_dict(unet.state_dict())
    return copy.eval()


def latency(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields the latency of one image in each form of each side, relative to that side in eager PyTorch."""
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for side in SIDES:
            unet = bench.pipeline(side).unet
            size = unet.config.sample_size
            inputs = torch.randn(1, unet.config.in_channels, size, size), torch.full((1,), 500.0)
            torch._dynamo.reset()
            functions = torch_variants(unet, inputs)
            for form, precision in EXPORTS:
                folder = bench.export(side, form, precision)
                if folder is not None:
                    network, arrays = bench.network(folder, threads), tuple(t.numpy() for t in inputs)
                    functions[f"{form} {precision}"] = lambda network=network, arrays=arrays: network(*arrays)
            with torch.inference_mode():
                times = measure_latency(functions, repeats=bench.arguments.repeats, rest=REST if threads > 1 else 0.0)
            for name, time in times.items():
                yield {"side": side, "variant": name, "threads": threads, **timed(time)}


def operators(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields the share of each operator in ONNX Runtime's time, for float32 and int8 with one thread."""
    import onnxruntime

    for side in SIDES:
        for precision in ("fp32", "int8"):
            folder = bench.export(side, "onnx", precision)
            assert folder is not None
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            options.enable_profiling = True
            with tempfile.TemporaryDirectory() as place:
                options.profile_file_prefix = str(Path(place) / "profile")
                session = onnxruntime.InferenceSession(folder / "network.onnx", options, ["CPUExecutionProvider"])
                config = bench.pipeline(side).unet.config
                shape = (1, config.in_channels, config.sample_size, config.sample_size)
                inputs = {"sample": np.zeros(shape, np.float32), "timestep": np.full(1, 500, np.float32)}
                for _ in range(bench.arguments.repeats):
                    session.run(None, inputs)
                events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            spent: Counter[str] = Counter()
            for event in events:
                if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
                    spent[event["args"]["op_name"]] += event["dur"]
            for name, duration in spent.most_common(8):
                share = {"ms": duration / 1000 / bench.arguments.repeats, "ratio": duration / spent.total()}
                yield {"side": side, "variant": f"onnx {precision}", "threads": 1, "operator": name, **share}
