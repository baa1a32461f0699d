"""Exports planners: a folder with the network, what its plans are, and a policy that runs on ONNX Runtime alone."""

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from continuous_unet import __version__
from continuous_unet.base.errors import InputError
from continuous_unet.base.files import check_output, replace_folder, replace_text
from continuous_unet.base.results import Json
from continuous_unet.base.signals import StopRequest
from continuous_unet.deploy.network import LARGEST_TRACED_BATCH, ExportModule, explained
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.parity import check_error, error_of
from continuous_unet.deploy.standalone import policy, runtime
from continuous_unet.diffusion.process import process_of
from continuous_unet.ode import ADAPTIVE_METHODS
from continuous_unet.tasks.loading import set_solver_steps
from continuous_unet.tasks.network import Network
from continuous_unet.tasks.plan import receding
from continuous_unet.tasks.plan.pipeline import PlanningPipeline
from continuous_unet.tasks.plan.policy import TorchPlanner

PLAN_STEPS, PLANS = 4, 3
"""The number of sampling steps and of plans that are compared with PyTorch."""


def export_planner(pipeline: PlanningPipeline, options: ExportOptions, *, stop: StopRequest) -> Json:
    """Exports a planner, and returns the contents of `export.json`; see `export_model`.

    Raises:
        InputError: for options that planners do not have, and a network that cannot be exported.
        ParityError: if the plans of the exported policy differ from PyTorch's by more than the tolerance.
        Stopped: if `stop` ends the work.
    """
    defaults = ExportOptions()
    for name in ("format", "precision", "static_shape", "any_size", "web", "solver_loop"):
        if getattr(options, name) != getattr(defaults, name):
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is for models of images; planners are exported to ONNX in fp32: leave it out")
    if isinstance(options.solver_steps, str):
        raise InputError("--solver-steps of a planner must be a number; it is exported for that number alone")
    target = check_output(options.output, overwrite=options.overwrite, mark=runtime.INFO_FILE, what="export")
    unet = _prepared(pipeline, options)
    network, info = PlanningPipeline(cast(Network, unet), pipeline.scheduler, pipeline.facts), _described(pipeline)

    def write(folder: Path) -> None:
        folder.mkdir()
        stop.check()
        content = _to_onnx(network)
        (folder / info["network"]).write_bytes(content)
        info["files"] = {info["network"]: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
        info["size_bytes"] = len(content)
        stop.check()
        names = [entry["name"] for entry in info["inputs"]]
        exported = policy.OnnxPlanner(runtime.open_onnx(folder / info["network"], None, names), info)
        error, allowed = _error(exported, TorchPlanner(network)), options.allowed_error()
        check_error(error, allowed)
        info["parity"] = {"tolerance": allowed, "max_error": error, "steps": PLAN_STEPS}
        for module in (runtime, policy, receding):
            shutil.copyfile(str(module.__file__), folder / Path(str(module.__file__)).name)
        replace_text(folder / runtime.INFO_FILE, json.dumps(info, indent=1) + "\n")

    replace_folder(target, write)
    return info


def _prepared(pipeline: PlanningPipeline, options: ExportOptions) -> nn.Module:
    """Returns a copy of the U-Net on the CPU, in float32, set for inference."""
    unet = nn.Module.float(copy.deepcopy(pipeline.unet).to("cpu"))  # type: ignore[attr-defined]
    unet = unet.eval().requires_grad_(False)
    if hasattr(unet, "set_solver"):
        if unet.config.method in ADAPTIVE_METHODS:  # type: ignore[union-attr]
            method = unet.config.method  # type: ignore[union-attr]
            raise InputError(
                f"method={method!r} chooses its steps while it runs and cannot be exported; set a method of fixed "
                "steps (set_solver) and save the model again"
            )
        unet.set_solver(gradient="backprop")
    if isinstance(options.solver_steps, int):
        set_solver_steps(unet, options.solver_steps)
    return unet


def _described(pipeline: PlanningPipeline) -> Json:
    """Returns what the policy must know besides the network's file."""
    facts, config = pipeline.plan, pipeline.unet.config
    size: list[object] = ["batch", len(facts.scaling), facts.horizon]
    inputs = [
        {"name": "sample", "dtype": "float32", "shape": size},
        {"name": "timestep", "dtype": "float32", "shape": ["batch"]},
    ]
    if facts.num_observed:
        inputs.append({"name": "global_cond", "dtype": "float32", "shape": ["batch", facts.num_observed]})
    return {
        "format_version": runtime.FORMAT_VERSION,
        "format": "onnx",
        "precision": "fp32",
        "task": "plan",
        "network": "network.onnx",
        "inputs": inputs,
        "outputs": [{"name": "prediction", "dtype": "float32", "shape": size}],
        "plan": facts.describe(),
        "schedule": process_of(pipeline.scheduler).describe(),
        "conditions": {},
        "model": {
            "class": type(pipeline.unet).__name__,
            "parameters": sum(p.numel() for p in pipeline.unet.parameters()),  # type: ignore[attr-defined]
            "solver_steps": config.get("num_solver_steps"),
        },
        "versions": {"continuous-unet": __version__, "torch": torch.__version__},
    }


def _to_onnx(pipeline: PlanningPipeline) -> bytes:
    from continuous_unet.deploy.formats.to_onnx import program_to_onnx

    facts, unet = pipeline.plan, pipeline.unet
    given = [facts.num_observed] if facts.num_observed else []
    names = ["sample", "timestep", "global_cond"][: 2 + len(given)]
    examples = torch.randn(2, len(facts.scaling), facts.horizon), torch.rand(2), *(torch.randn(2, n) for n in given)
    batch = Dim("batch", min=1, max=LARGEST_TRACED_BATCH)
    shapes = {name: {0: batch} for name in names}
    module = ExportModule(unet, names).eval()  # type: ignore[arg-type]
    with explained("be exported"), torch.no_grad():
        program = torch.export.export(module, examples, dynamic_shapes=shapes, strict=False)
    content: bytes = program_to_onnx(program, names).SerializeToString()
    return content


def _error(exported: policy.OnnxPlanner, reference: TorchPlanner) -> float:
    """Returns the largest error of plans for random observations, with and without a previous plan, in scaled units."""
    shape, generator = reference.shape, np.random.default_rng(0)
    known = shape.restore(generator.uniform(-1, 1, (PLANS, shape.channels, shape.horizon)).astype(np.float32))
    observed = known[:, :1, : shape.num_states]
    goal: np.ndarray | None = known[:, -1, : shape.num_states]
    if shape.learned == "actions":
        scaling = reference.pipeline.plan.observed
        seen = generator.uniform(-1, 1, (PLANS, shape.history, len(scaling))).astype(np.float32)
        observed, goal = scaling.restore(seen), None
    error = 0.0
    for previous in (None, known):
        made = [
            planner.make(
                observed, goal, steps=PLAN_STEPS, seed=0, numbers=range(PLANS), previous=previous, strength=0.5
            )
            for planner in (exported, reference)
        ]
        error = max(error, error_of(*(shape.normalise(plans) for plans in made)))
    return error
