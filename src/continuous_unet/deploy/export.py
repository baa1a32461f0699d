"""The library call behind `cunet export`: a folder that runs elsewhere, compared with the model that it is made of."""

import contextlib
import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from continuous_unet import __version__
from continuous_unet.base.errors import InputError
from continuous_unet.base.files import check_output, replace_folder, replace_text
from continuous_unet.base.results import CallResult, Json
from continuous_unet.base.signals import StopRequest
from continuous_unet.codecs.base import Codec
from continuous_unet.codecs.identity import Pixels
from continuous_unet.deploy.calibration import noised_images, open_for, origin
from continuous_unet.deploy.codecs import for_codec, write_codec
from continuous_unet.deploy.conditions import check_exportable, describe_conditions, write_text_encoder
from continuous_unet.deploy.formats import FORMATS, Written, load_writer
from continuous_unet.deploy.network import ExportNetwork, on_arrays, prepare_network
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.page import write_page
from continuous_unet.deploy.parity import check_error, measure_parity
from continuous_unet.deploy.policies import export_planner
from continuous_unet.deploy.quantization import CALIBRATION_BATCH, Calibration, calibration_inputs
from continuous_unet.deploy.standalone import runtime
from continuous_unet.deploy.web_runtime import find_runtime
from continuous_unet.diffusion.process import process_of
from continuous_unet.evaluation import measure_latency
from continuous_unet.tasks.facts import Facts
from continuous_unet.tasks.generate.pipeline import own_tables
from continuous_unet.tasks.loading import load_model
from continuous_unet.tasks.network import Pipeline
from continuous_unet.tasks.plan.pipeline import PlanningPipeline
from continuous_unet.tasks.registry import OLD_NAMES, TASKS, TRAINED


@dataclass
class ExportResult(CallResult):
    """The result of `export`."""

    output: str
    info: Json
    """The contents of `export.json`."""

    def to_dict(self) -> Json:
        return self.info

    def to_text(self) -> str:
        info, parity = self.info, self.info["parity"]
        text = f"{self.output}: {info['format']}, {info['precision']}, {info['size_bytes'] / 2**20:.2f} MiB\n"
        text += f"error against PyTorch {parity['max_error']:.1e} (tolerance {parity['tolerance']:.1e})"
        if sampling := parity.get("full_sampling"):
            text += f", over {sampling['steps']} sampling steps {sampling['max_error']:.1e}"
        if latency := info.get("latency"):
            text += f"\nlatency {latency['exported_ms']:.2f} ms, PyTorch {latency['torch_eager_ms']:.2f} ms: ratio "
            text += f"{latency['ratio']:.2f} ({latency['ratio_p25']:.2f} to {latency['ratio_p75']:.2f})"
        return text

    def notes(self) -> list[str]:
        names = [entry["name"] for entry in self.info["inputs"]]
        if "encoder_hidden_states" not in names or "text" in self.info["conditions"]:
            return []
        return ["the text encoder was not exported; prompts must be encoded elsewhere, as encoder_hidden_states"]


def export(options: ExportOptions, *, stop: StopRequest | None = None) -> ExportResult:
    """Writes a model to the folder `options.output`: the network, `export.json`, and `runtime.py` to run it with.

    The folder appears when everything in it has been written and measured, or not at all.

    Args:
        options: what is exported, and how.
        stop: is checked before the network is written, and before it is measured.

    Raises:
        InputError: for options, models and shapes that cannot be exported, and for a missing package.
        ParityError: if the exported network's error against PyTorch is above the tolerance.
        Stopped: if `stop` ends the work; nothing is written then.
    """
    options.validate()
    return ExportResult(options.output, export_model(load_model(options.model), options, stop=stop))


def export_model(pipeline: Pipeline, options: ExportOptions, *, stop: StopRequest | None = None) -> Json:
    """Exports a pipeline in memory, and returns the contents of `export.json`.

    Args:
        pipeline: one of ours for a task that is trained, or any of a U-Net and a variance-preserving scheduler.
        options: as for `export`; `options.model` names the run that the pipeline comes from, which int8 looks up.
        stop: as for `export`.

    Raises:
        InputError, ParityError, Stopped: as `export`.
    """
    stop = stop or StopRequest()
    options = replace(options, model=options.model or type(pipeline).__name__).validate()
    if isinstance(pipeline, PlanningPipeline):
        return export_planner(pipeline, options, stop=stop)
    target = check_output(options.output, overwrite=options.overwrite, mark=runtime.INFO_FILE, what="export")
    write_network = load_writer(options.format)
    task = _task_of(pipeline)
    about = _describe_task(pipeline, task)
    clips = task == "video"
    if options.precision == "int8" and (clips or about["task"] != "generation"):
        raise InputError(f"--precision int8 is for models that make images, and this one is for {task}; leave it out")
    if clips and options.web:
        raise InputError("--web is for models of images, and this one makes clips; leave it out")
    ort = find_runtime(options.ort_dir) if options.web else None
    taken, given = pipeline.unet.config.in_channels, pipeline.unet.config.out_channels
    if about["task"] == "generation" and taken != given:
        raise InputError(
            f"the model takes {taken} channels and gives {given}: it does not make images from noise alone, as "
            "exported models do"
        )
    if task not in ("generate", "video") and options.static_shape is None and FORMATS[options.format].any_size:
        options = replace(options, any_size=True)  # photographs are of any size
    facts = _facts_of(pipeline)
    check_exportable(pipeline.unet, facts, options)
    codec: Codec = getattr(pipeline, "codec", Pixels(taken))
    options = for_codec(codec, options)
    text = facts.text
    network = prepare_network(pipeline.unet, options, 0 if text is None else text.max_length)
    if options.precision == "int8":
        network.calibration = _calibrate(pipeline, network, options)
    info: Json = {}

    def write(folder: Path) -> None:
        folder.mkdir()
        stop.check()
        written = write_network(network, folder, options)
        texts, entry = write_text_encoder(pipeline.unet, facts, folder, options)
        conditions = describe_conditions(facts) | ({"text": entry} if entry else {})
        parts, own = write_codec(codec, network, folder, options)
        info.update({**_describe(network, written, options, folder, [*texts, *parts]), **about})
        if own:
            info["codec"] = own
        if network.takes_solver_steps:
            info["solver_steps"] = _describe_depths(facts)
        if conditions:
            info["conditions"] = conditions
        stop.check()
        info.update(_measure(network, written, options, folder, info))
        shutil.copyfile(runtime.__file__, folder / "runtime.py")
        if ort is not None:
            write_page(folder, [(name_of(options.model), "./")], ort)
        replace_text(folder / runtime.INFO_FILE, json.dumps(info, indent=1) + "\n")

    replace_folder(target, write)
    return info


def name_of(model: str) -> str:
    """Returns the name of a model for people: that of its folder."""
    return Path(model).resolve().name


def _task_of(pipeline: Pipeline) -> str:
    """Returns the name of a pipeline's task in the registry.

    Raises:
        InputError: for a task that exported models do not have.
    """
    name = getattr(pipeline, "task", "generate")
    task = OLD_NAMES.get(name, name)
    if task not in TRAINED:
        raise InputError(f"models for the task {task!r} cannot be exported; those for {', '.join(TRAINED)} can")
    return task


def _facts_of(pipeline: Pipeline) -> Facts:
    """Returns the facts of a pipeline; pipelines of diffusers have none."""
    facts: Facts = getattr(pipeline, "facts", Facts())
    return facts


def _describe_depths(facts: Facts) -> Json:
    """Returns the numbers of solver steps by noise level, and those that the model was measured with."""
    known = facts.solver_steps
    return {} if known is None else {name: getattr(known, name) for name in ("timesteps", "steps", "depths")}


def _describe_task(pipeline: Pipeline, task: str) -> Json:
    """Returns what `runtime.py` must know besides the network. Old names stay in files, which old runtimes read."""
    scheduler = pipeline.scheduler
    options = {name: pipeline.config.get(name, default) for name, default in TASKS[task].export.items()}
    if scheduler is None and task == "denoise":
        return {"task": task, "options": options, "schedule": None, "scheduler": None}
    config, process = json.loads(json.dumps(dict(scheduler.config), default=str)), process_of(scheduler)
    facts = _facts_of(pipeline)
    tables = [[asdict(row) for row in rows] for rows in own_tables(facts, process).values()]
    return {
        # a diffusion model that denoises is exported as such: `runtime.denoise` accepts it
        "task": "generation" if task in ("generate", "denoise", "video") else task,
        "options": options,
        "schedule": {**process.describe(), "tables": tables},
        "only_tables": facts.sampler is not None and facts.sampler.distilled,
        "scheduler": {"_class_name": type(scheduler).__name__, **config},
    }


def _calibrate(pipeline: Pipeline, network: ExportNetwork, options: ExportOptions) -> Calibration:
    known, size, process = origin(options.model), (network.height, network.width), process_of(pipeline.scheduler)
    source, conditions = str(options.calibration_data), _facts_of(pipeline).conditions
    data = open_for(network.unet, source, known, "--calibration-data", size, conditions)
    labels, seed = network.class_conditional, known.config.seed
    batch = noised_images(data, process, options.calibration_images, with_labels=labels, seed=seed)
    return calibration_inputs(batch, network.batch or CALIBRATION_BATCH)


def _describe(network: ExportNetwork, written: Written, options: ExportOptions, folder: Path, more: list[str]) -> Json:
    config, axes = network.unet.config, network.axes()
    prediction = {"name": "prediction", "dtype": "float32", "shape": [axes[0], config.out_channels, *axes[2:]]}
    contents = {name: (folder / name).read_bytes() for name in [*written.files, *more]}
    files = {name: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for name, b in contents.items()}
    steps = config.get("num_solver_steps")
    return {
        "format_version": runtime.FORMAT_VERSION,
        "format": options.format,
        "precision": options.precision,
        "network": written.files[0],
        "files": files,
        "size_bytes": sum(len(b) for b in contents.values()),
        "inputs": [one.describe(network) for one in network.inputs],
        "outputs": [prediction],
        "image_shape": [config.in_channels, *network.size],
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
        "versions": {
            "continuous-unet": __version__,
            **_versions("torch", "diffusers", *FORMATS[options.format].packages),
        },
    }


def _versions(*packages: str) -> dict[str, str]:
    versions = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _measure(network: ExportNetwork, written: Written, options: ExportOptions, folder: Path, info: Json) -> Json:
    threads = torch.get_num_threads()
    names = [one.name for one in network.inputs]
    exported = runtime.ExportedModel(written.open(folder / written.files[0], threads, names), info)
    reference = runtime.ExportedModel(on_arrays(network.module), info)
    parity, allowed = measure_parity(exported, reference), options.allowed_error()
    check_error(parity["max_error"], allowed)
    result: Json = {"parity": {"tolerance": allowed, **parity}}
    if options.repeats:
        examples = network.example_inputs(batch=network.batch or 1)
        inputs = {name: tensor.numpy() for name, tensor in zip(names, examples, strict=True)}
        functions = {"torch": lambda: reference(**inputs), "exported": lambda: exported(**inputs)}
        times = measure_latency(functions, repeats=options.repeats)
        found = times["exported"]
        result["latency"] = {
            "batch_size": len(inputs["sample"]),
            "num_threads": threads,
            "torch_eager_ms": times["torch"].median_ms,
            "exported_ms": found.median_ms,
            **{name: getattr(found, name) for name in ("ratio", "ratio_p25", "ratio_p75")},
        }
    return result
