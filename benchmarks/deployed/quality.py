"""What int8, pruning and fine-tuning do to the quality."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deployed.bench import EXPORTS, RATIOS, SIDES, Bench, Exported, bench_exported, timed
from deployed.judge import Judge

from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.deploy.calibration import noised_images, open_for, origin
from continuous_unet.deploy.quantization import CALIBRATION_BATCH, FLOAT_LAYERS, calibration_inputs, quantize_onnx
from continuous_unet.deploy.standalone.runtime import OPENERS
from continuous_unet.diffusion.process import process_of
from continuous_unet.evaluation import count_macs, measure_latency
from continuous_unet.tasks.loading import load_pipeline

SOLVER_STEPS = (1, 2, 4)


def quality(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields the validation loss and the FID of every form, with the same noise."""
    judge = Judge(bench)
    for side in SIDES:
        pipeline = bench.pipeline(side)
        yield {"side": side, "variant": "eager", **judge(pipeline)}
        for form, precision in EXPORTS:
            if form in ("executorch", "aoti"):
                continue
            folder = bench.export(side, form, precision)
            if folder is not None:
                yield {"side": side, "variant": f"{form} {precision}", **judge(bench_exported(bench, pipeline, folder))}


def pruning(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields our pruned models' cost, latency in turns with the original, validation loss and FID."""
    judge = Judge(bench)
    whole = bench.pipeline("ours")
    pipelines = {"original": whole}
    rows: dict[str, dict[str, Any]] = {"original": {}}
    for ratio in RATIOS:
        folder = bench.pruned(ratio)
        name = f"pruned {ratio:.0%}"
        pipelines[name] = load_pipeline(folder)
        report = json.loads((folder / "prune.json").read_text(encoding="utf-8"))
        rows[name] = {"validation_loss_before_finetuning": report["pruned"]["validation_loss"]}
    size = whole.unet.config.sample_size
    sample = torch.randn(1, whole.unet.config.in_channels, size, size)
    torch.set_num_threads(1)
    with torch.inference_mode():
        functions = {name: lambda unet=p.unet: unet(sample, 500) for name, p in pipelines.items()}
        times = measure_latency(functions, repeats=bench.arguments.repeats)
        for name, pipeline in pipelines.items():
            macs = count_macs(pipeline.unet, sample, 500).macs
            cost = {"parameters": pipeline.unet.num_parameters(), "macs": macs, "threads": 1, **timed(times[name])}
            yield {"side": "ours", "variant": name, **cost, **rows[name], **judge(pipeline)}


def solver_steps(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields int8 by number of solver steps, because shared weights are rounded anew at each of them."""
    judge = Judge(bench, fid=False)
    pipeline = bench.pipeline("ours")
    for steps in SOLVER_STEPS:
        for precision in ("fp32", "int8"):
            own = pipeline.unet.config.num_solver_steps
            folder = bench.export("ours", "onnx", precision, None if steps == own else steps)
            assert folder is not None
            info = json.loads((folder / "export.json").read_text(encoding="utf-8"))
            yield {
                "side": "ours", "variant": f"onnx {precision}", "solver_steps": steps,
                "error_sampling": info["parity"]["full_sampling"]["max_error"],
                **judge(bench_exported(bench, pipeline, folder)),
            }  # fmt: skip


def quantization_aware(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields int8 of our run as it is, after fine-tuning with rounding, and after equally long fine-tuning without."""
    judge = Judge(bench)
    for name, aware in (("ours", None), ("finetuned", False), ("finetuned-aware", True)):
        if aware is not None:
            bench.runs[name] = bench.finetuned(aware)
        pipeline = bench.pipeline(name)
        for precision in ("fp32", "int8"):
            folder = bench.export(name, "onnx", precision)
            assert folder is not None
            loss = judge(bench_exported(bench, pipeline, folder))
            yield {"side": "ours", "variant": f"{name} {precision}", **loss}


def float_layers(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields int8 with the first and last convolution in float, and with all of them in int8."""
    judge = Judge(bench, fid=False)
    pipeline = bench.pipeline("ours")
    single = bench.export("ours", "onnx", "fp32")
    assert single is not None
    data = open_for(pipeline.unet, bench.arguments.data, origin(bench.arguments.ours))
    batch = noised_images(data, process_of(pipeline.scheduler), 128, with_labels=False)
    calibration = calibration_inputs(batch, CALIBRATION_BATCH)
    exact = bench.network(single, 1)(batch["sample"].numpy(), batch["timestep"].float().numpy())
    for name, kept in (("first and last in float", FLOAT_LAYERS), ("all in int8", ())):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "network.onnx"
            quantize_onnx(single / "network.onnx", path, calibration, kept)
            network, size = OPENERS["onnx"](path, 1, ["sample", "timestep"]), path.stat().st_size
        error = network(batch["sample"].numpy(), batch["timestep"].float().numpy()) - exact
        unet = Exported(network, pipeline.unet.config, None)
        loss = judge(DiffusionSamplingPipeline(unet, pipeline.scheduler))
        yield {"side": "ours", "variant": name, "bytes": size, "error": float(np.sqrt((error**2).mean())), **loss}
