"""The models of both sides in every form, made once."""

import argparse
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from rows import read
from torch import Tensor, nn

from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.deploy.calibration import origin
from continuous_unet.deploy.export import export
from continuous_unet.deploy.formats import FORMATS
from continuous_unet.deploy.formats.to_aoti import open_aoti
from continuous_unet.deploy.formats.to_executorch import open_executorch
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.pruning.options import PruneOptions
from continuous_unet.deploy.pruning.run import prune
from continuous_unet.deploy.standalone.runtime import OPENERS
from continuous_unet.diffusion.samplers import make_scheduler
from continuous_unet.evaluation import Latency
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training import train

SIDES = ("ours", "discrete")
EXPORTS = (
    ("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "fp16"),
    ("openvino", "int8"), ("aoti", "fp32"), ("executorch", "fp32"), ("executorch", "int8"),
)  # fmt: skip
RATIOS = (0.3, 0.5)
PRUNED = {f"pruned-{ratio:g}": ratio for ratio in RATIOS}
"""Our pruned models, which are sides of their own where whole images are made."""
FINETUNE_RATE = 2e-4
"""Peak learning rate of fine-tuning: a tenth of that of the training."""
THREADS = 2
"""Number of threads for measurements of whole images."""
CPU = torch.device("cpu")
Network = Callable[..., np.ndarray]


class Bench:
    """Holds the models of both sides, and makes what the parts need of them once."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.work: Path = arguments.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.runs = {"ours": arguments.ours, "discrete": arguments.discrete}

    def run(self, side: str) -> Path | str:
        return self.pruned(PRUNED[side]) if side in PRUNED else self.runs[side]

    def pipeline(self, side: str) -> DiffusionSamplingPipeline:
        return load_pipeline(self.run(side))

    def export(self, side: str, form: str, precision: str, solver_steps: int | None = None) -> Path | None:
        """Returns a folder of `cunet export`, and makes it if necessary; None if the format's packages are missing.

        OpenVINO and ExecuTorch plan for one image; ONNX and AOTInductor take any number.
        """
        if any(importlib.util.find_spec(package) is None for package in FORMATS[form].packages):
            return None
        steps = "" if solver_steps is None else f"-{solver_steps}steps"
        folder = self.work / f"{side}-{form}-{precision}{steps}"
        if not (folder / "export.json").is_file():
            print(f"export: {folder.name}", flush=True)
            size = self.pipeline(side).unet.config.sample_size
            options = ExportOptions(
                model=str(self.run(side)),
                format=form, precision=precision, output=str(folder), solver_steps=solver_steps, repeats=0,
                calibration_data=self.arguments.data if precision == "int8" else None, tolerance=10.0,
                static_shape=f"1x{size}x{size}" if form in ("openvino", "executorch") else None,
            )  # fmt: skip
            export(options)
        return folder

    def network(self, folder: Path, threads: int) -> Network:
        info = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        openers = {**OPENERS, "aoti": open_aoti, "executorch": open_executorch}
        return openers[info["format"]](folder / info["network"], threads, [entry["name"] for entry in info["inputs"]])

    def pruned(self, ratio: float) -> Path:
        """Returns a folder of `cunet prune`, and makes or finishes it if necessary."""
        folder = self.work / f"pruned-{ratio:g}"
        options = PruneOptions(
            model=str(self.runs["ours"]),
            data=self.arguments.data,
            output=str(folder),
            ratio=ratio,
            steps=self.arguments.finetune_steps,
        )
        report = json.loads((folder / "prune.json").read_text()) if (folder / "prune.json").is_file() else None
        if report is None or (options.steps and "finetuned" not in report):
            print(f"prune: {folder.name}", flush=True)
            prune(options, resume=report is not None)
        return folder

    def finetuned(self, aware: bool) -> Path:
        """Returns our run, trained further with or without int8 rounding, and makes or finishes it if necessary."""
        folder = self.work / ("run-finetuned-aware" if aware else "run-finetuned")
        steps = self.arguments.finetune_steps
        config = origin(self.arguments.ours).config.replaced(
            start_from=str(self.arguments.ours), model_options={}, output=str(folder), data=self.arguments.data,
            quantization_aware=aware, steps=steps, learning_rate=FINETUNE_RATE, lr_schedule="cosine",
            lr_warmup_steps=50, ema_decay=0.99, device="cpu", validate_every=steps, checkpoint_every=steps,
            sample_every=steps,
        )  # fmt: skip
        if not (folder / "report.md").is_file():
            print(f"fine-tuning: {folder.name}", flush=True)
            train(config, resume=folder.is_dir())
        return folder


class Exported(nn.Module):
    """Gives an exported network the interface of a U-Net, so that the same code samples and validates it."""

    def __init__(self, network: Network, config: Any, batch: int | None) -> None:
        super().__init__()
        self.network, self.config, self.batch = network, config, batch
        self.dtype, self.device = torch.float32, CPU

    def forward(
        self, sample: Tensor, timestep: Any, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput:
        times = torch.as_tensor(timestep, dtype=torch.float32).expand(len(sample))
        inputs = [sample.numpy(), times.numpy(), *([] if class_labels is None else [class_labels.numpy()])]
        size = self.batch or len(sample)
        parts = [self.network(*(a[i : i + size] for a in inputs)) for i in range(0, len(sample), size)]
        return UNet2DOutput(sample=torch.from_numpy(np.concatenate(parts)))


def form_of(bench: Bench, side: str, variant: str, threads: int | None = None) -> DiffusionSamplingPipeline:
    """Returns a side in eager PyTorch, or in the form `"FORMAT PRECISION"`."""
    pipeline = bench.pipeline(side)
    if variant == "eager":
        return pipeline
    folder = bench.export(side, *variant.split())
    assert folder is not None
    return bench_exported(bench, pipeline, folder, threads)


def bench_exported(
    bench: Bench, pipeline: DiffusionSamplingPipeline, folder: Path, threads: int | None = None
) -> DiffusionSamplingPipeline:
    info = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    batch = info["inputs"][0]["shape"][0]
    network = bench.network(folder, threads or free_cores())
    unet = Exported(network, pipeline.unet.config, None if isinstance(batch, str) else batch)
    return DiffusionSamplingPipeline(unet, pipeline.scheduler)


def fast_sampling(pipeline: DiffusionSamplingPipeline) -> DiffusionSamplingPipeline:
    """Returns the same model, sampled by DPM-Solver++ and without a progress bar."""
    pipeline = DiffusionSamplingPipeline(pipeline.unet, make_scheduler("dpm++", pipeline.scheduler.config))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def free_cores() -> int:
    """Returns the number of cores that this process may use; `taskset` can reduce it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def timed(time: Latency) -> dict[str, Any]:
    return {
        "ms": time.median_ms, "ms_p25": time.p25_ms, "ms_p75": time.p75_ms, "ratio": time.ratio,
        "ratio_p25": time.ratio_p25, "ratio_p75": time.ratio_p75,
    }  # fmt: skip


def known_rows(output: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if v} for row in read(output / "deploy.csv")]
