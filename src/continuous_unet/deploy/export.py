"""`export_model`: a trained model to a folder that runs elsewhere, with the proof in `export.json`."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from continuous_unet import __version__
from continuous_unet.base.errors import InputError
from continuous_unet.base.files import replace_folder, replace_text
from continuous_unet.deploy.calibration import Origin, noised_images, open_for, origin
from continuous_unet.deploy.formats import Format, Written, find_format, load_writer
from continuous_unet.deploy.network import ExportNetwork, prepare_network
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.parity import ParityError, measure_parity
from continuous_unet.deploy.quantization import CALIBRATION_BATCH, Calibration, calibration_inputs
from continuous_unet.deploy.standalone import runtime
from continuous_unet.diffusion.samplers import make_scheduler
from continuous_unet.evaluation import measure_latency
from continuous_unet.tasks.loading import load_model

TASKS: dict[str, dict[str, Any]] = {
    "generation": {},
    "denoise": {"sigma_conditioned": False},
    "upscale": {"scale": 2, "residual_scale": 4.0},
}
"""What pipelines are for, and the settings of their config that `runtime.py` must know, with defaults."""
WEB_FILES = ("index.html", "diffusion.js")
"""The page that makes images in a browser, in the folder `web`."""


def export_model(model: str | os.PathLike | DiffusionPipeline, options: ExportOptions) -> dict[str, Any]:
    """Write a model to `options.output`: the network, `export.json`, and `runtime.py` to run it with.

    The folder appears when everything in it is written and measured, or not at all.

    Args:
        model: what `load_model` takes, or a pipeline: ours for sampling, or one with a `task` of `TASKS`.
        options: format, precision, shapes, tolerance.

    Returns:
        What `export.json` says.

    Raises:
        InputError: for options, models and shapes that cannot be, and a missing package, by the extra that has it.
        ParityError: if the exported network's error against PyTorch is above the tolerance.
    """
    options.validate()
    target = options.check_output()
    found = find_format(options.format, options.precision)
    if options.solver_loop == "loop" and not found.loops:
        raise InputError(f"--solver-loop loop is not for --format {options.format}; leave it out")
    pipeline = model if isinstance(model, DiffusionPipeline) else load_model(model)
    task = getattr(pipeline, "task", "generation")
    if task not in TASKS:
        raise InputError(f"models for the task {task!r} cannot be exported; those for {', '.join(TASKS)} can")
    if task != "generation" and options.static_shape is None and options.format in ("onnx", "openvino"):
        options = dataclasses.replace(options, any_size=True)  # photographs are of any size
    network = prepare_network(pipeline.unet, options)
    network.loop = network.loop and found.loops
    if found.fixed_batch:
        network.batch = network.batch or 1  # before calibration, whose batches follow it
    if options.web and task != "generation":
        raise InputError(f"--web is for models that make images, and this one is to {task}")
    about = {
        "task": task,
        "options": {name: pipeline.config.get(name, default) for name, default in TASKS[task].items()},
        "schedule": None if pipeline.scheduler is None else describe_schedule(pipeline.scheduler),
        "scheduler": _scheduler_config(pipeline.scheduler),
    }
    if task == "denoise" and pipeline.scheduler is not None:
        about["task"] = "generation"  # a diffusion model that denoises: runtime.denoise takes it as such
    if options.precision == "int8":
        if about["task"] != "generation" or pipeline.scheduler is None:
            raise InputError(f"--precision int8 is for models that make images, and this one is to {task}")
        network.loop = False
        network.calibration = _calibrate(model, pipeline, network, options)
    info: dict[str, Any] = {}

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        written = load_writer(found)(network, folder, options)
        info.update({**_describe(network, written, options, found, folder), **about})
        info.update(_measure(network, written, options, folder, info))
        shutil.copyfile(runtime.__file__, folder / "runtime.py")
        if options.web:
            for name in WEB_FILES:
                shutil.copyfile(Path(runtime.__file__).parent / "web" / name, folder / name)
        replace_text(folder / runtime.INFO_FILE, json.dumps(info, indent=1) + "\n")

    replace_folder(target, write)
    return info


def _calibrate(
    model: str | os.PathLike | DiffusionPipeline,
    pipeline: DiffusionPipeline,
    network: ExportNetwork,
    options: ExportOptions,
) -> Calibration:
    known = Origin() if isinstance(model, DiffusionPipeline) else origin(model)
    data = open_for(
        network.unet, str(options.calibration_data), known, "--calibration-data", (network.height, network.width)
    )
    batch = noised_images(
        data,
        pipeline.scheduler,
        options.calibration_images,
        with_labels=network.class_conditional,
        seed=known.config.seed,
    )
    return calibration_inputs(batch, network.batch or CALIBRATION_BATCH)


def describe_schedule(scheduler: Any) -> dict[str, Any]:
    """The diffusion process of a scheduler as `runtime.Schedule` wants it, with the settings that we sample DDIM with.

    Raises:
        InputError: for a scheduler that is more than a noise schedule (thresholding, other parametrisations).
    """
    if not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("prediction_type") == "flow_prediction":
        raise InputError(f"models of a {type(scheduler).__name__} cannot be exported: it has no table of alphas")
    if scheduler.config.get("thresholding", False):
        raise InputError("schedulers with thresholding=True cannot be exported; DDIM with clip_sample=True can")
    ddim = make_scheduler("ddim", scheduler.config)
    return {
        "alphas_cumprod": [float(str(np.float32(value))) for value in scheduler.alphas_cumprod.tolist()],
        "prediction_type": ddim.config.prediction_type,
        "timestep_spacing": ddim.config.timestep_spacing,
        "steps_offset": ddim.config.steps_offset,
        "clip_sample": ddim.config.clip_sample,
        "clip_sample_range": ddim.config.clip_sample_range,
        "final_alpha_cumprod": float(ddim.final_alpha_cumprod),
    }


def _scheduler_config(scheduler: Any) -> dict[str, Any] | None:
    if scheduler is None:
        return None
    return {"_class_name": type(scheduler).__name__, **json.loads(json.dumps(dict(scheduler.config), default=str))}


def _describe(
    network: ExportNetwork,
    written: Written,
    options: ExportOptions,
    found: Format,
    folder: Path,
) -> dict[str, Any]:
    config = network.unet.config
    axes = network.axes()
    inputs = [
        {"name": "sample", "dtype": "float32", "shape": axes},
        {"name": "timestep", "dtype": "float32", "shape": axes[:1]},
    ]
    if network.class_conditional:
        inputs.append({"name": "class_labels", "dtype": "int64", "shape": axes[:1]})
    outputs = [{"name": "prediction", "dtype": "float32", "shape": [axes[0], config.out_channels, *axes[2:]]}]
    contents = {name: (folder / name).read_bytes() for name in written.files}
    files = {name: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for name, b in contents.items()}
    steps = config.get("num_solver_steps")
    return {
        "format_version": runtime.FORMAT_VERSION,
        "format": options.format,
        "precision": options.precision,
        "network": written.files[0],
        "files": files,
        "size_bytes": sum(len(b) for b in contents.values()),
        "inputs": inputs,
        "outputs": outputs,
        "image_shape": [config.in_channels, network.height, network.width],
        "size_multiple_of": network.size_multiple_of,
        "num_classes": config.num_class_embeds,
        "model": {
            "class": type(network.unet).__name__,
            "parameters": sum(p.numel() for p in network.unet.parameters()),
            "method": config.get("method"),
            "solver_steps": steps,
            "solver": None if steps is None else "loop" if network.loop else "unrolled",
        },
        **written.facts,
        "versions": {"continuous-unet": __version__, **_versions(("torch", "diffusers", *found.packages))},
    }


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _measure(
    network: ExportNetwork, written: Written, options: ExportOptions, folder: Path, info: dict[str, Any]
) -> dict[str, Any]:
    threads = torch.get_num_threads()
    exported = runtime.ExportedModel(written.open(folder / written.files[0], threads), info)
    reference = runtime.ExportedModel(network.reference(), info)
    parity = measure_parity(exported, reference)
    allowed = options.allowed_error()
    if not parity["max_error"] <= allowed:
        raise ParityError(
            f"the exported network differs from PyTorch by {parity['max_error']:.2g}, more than the tolerance of "
            f"{allowed:.2g}; nothing was written. Export in a higher precision, or allow more with --tolerance"
        )
    result: dict[str, Any] = {"parity": {"tolerance": allowed, **parity}}
    if options.repeats:
        inputs = tuple(tensor.numpy() for tensor in network.example_inputs(batch=network.batch or 1))
        functions = {"torch": lambda: reference(*inputs), "exported": lambda: exported(*inputs)}
        times = measure_latency(functions, repeats=options.repeats)
        result["latency"] = {
            "batch_size": len(inputs[0]),
            "num_threads": threads,
            "torch_eager_ms": times["torch"].median_ms,
            "exported_ms": times["exported"].median_ms,
            "ratio": times["exported"].ratio,
            "ratio_p25": times["exported"].ratio_p25,
            "ratio_p75": times["exported"].ratio_p75,
        }
    return result
