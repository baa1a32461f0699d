"""Loads models by name: run folders, saved pipelines, bare models, packaged models, presets."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch

from continuous_unet.base.devices import pick_device
from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.process import process_of
from continuous_unet.models.build import build_unet
from continuous_unet.models.fingerprint import fingerprint
from continuous_unet.models.saved import LARGEST
from continuous_unet.tasks.facts import load_codec, read_facts
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
from continuous_unet.tasks.latents import CodecPipeline
from continuous_unet.tasks.options import FileOptions
from continuous_unet.tasks.packaged import Name, find_model, is_model
from continuous_unet.tasks.packaged import pretrained_models as pretrained_models
from continuous_unet.tasks.registry import TASKS
from continuous_unet.tasks.restoration import RestorationPipeline
from continuous_unet.tasks.saved import load_parts, model_folder, read_index, trained_for

PRESET_FRAMES = 8
"""Number of frames of a preset's clips, where nothing else says it."""
Device = str | torch.device | None
Restorer = TypeVar("Restorer", bound=RestorationPipeline)


def load_restorer(
    name: Name, task: str, *, device: Device = None, dtype: torch.dtype | None = None, variant: str | None = None
) -> Any:
    """Loads a model for a restoration verb.

    Args:
        name: what `load_pipeline` takes.
        task: `"denoise"` (a model trained for it, or any unconditional diffusion model), `"upscale"` or `"inpaint"`
            (any diffusion model).
        device: where to put it; the CPU if None.
        dtype: type of the weights; float32 if None, whatever they were saved as.
        variant: see `load_pipeline`.

    Raises:
        InputError: as `load_pipeline`, and for a model that was trained for something else.
    """
    path = find_model(name)
    unet, scheduler, index = load_parts(path, variant)
    purpose, config, usable = trained_for(index), unet.config, TASKS[task].models_of
    if purpose not in usable:
        expected = f"a model of cunet train --task {' or '.join(usable)}"
        raise InputError(f"{name} was trained for {purpose}; expected {expected}")
    facts, codec = read_facts(model_folder(path)), None
    own = facts.sampler
    if own is not None and own.distilled:
        raise InputError(f"{name} was distilled for a few sampling steps; {task} takes the model that it learned from")
    has_classes = config.num_class_embeds is not None or config.class_embed_type is not None
    can_ask = task == "inpaint"  # for a class or a text
    if purpose == "generate" and has_classes and facts.conditions.null_class is None and not can_ask:
        raise InputError(
            f"{name} was trained with classes and without dropping them; {task} needs a model that knows images of any "
            "class: train one with --condition-dropout 0.1"
        )
    if getattr(config, "cross_attention_dim", None) is not None and not can_ask:
        raise InputError(f"{name} is conditioned on text; {task} takes models without text")
    pipeline_class: type[RestorationPipeline] = TASKS[task].load_pipeline_class()
    options = _saved_options(pipeline_class, index, path)
    if issubclass(pipeline_class, CodecPipeline):
        options["codec"] = codec = load_codec(model_folder(path), facts)
    elif purpose == "generate" and facts.codec is not None:
        raise InputError(f"{name} works on the latents of a codec; {task} takes models that work on pixels")
    given = config.out_channels if codec is None else codec.channels
    if given not in (1, 3) or config.in_channels != config.out_channels * pipeline_class.input_images:
        channels = f"{config.in_channels} channels in and {config.out_channels} out"
        others = "" if pipeline_class.input_images == 1 else " and their enlarged ones"
        raise InputError(f"{name} has {channels}; {task} takes models of grey or RGB images{others}")
    if scheduler is not None:
        process_of(scheduler)  # refuses other families
    unet = torch.nn.Module.to(unet, dtype or torch.float32)
    pipeline = pipeline_class(unet, scheduler, **options)
    facts.check_model(config)
    pipeline.facts = facts
    return pipeline.to(device=device)


def open_restorer(name: str, kind: type[Restorer], options: FileOptions) -> Restorer:
    """Loads the model of a restoration verb as its options say; errors are those of `load_restorer`."""
    pipeline: Restorer = load_restorer(name, kind.task, device=pick_device(options.device), variant=options.variant)
    set_solver_steps(pipeline.unet, options.solver_steps)
    return pipeline


def load_model(name: Name) -> Any:
    """Loads a model as the pipeline of what it was trained for; arguments and errors are those of `load_restorer`."""
    path = find_model(name)
    task = trained_for(read_index(model_folder(path)))
    if task == "plan":
        from continuous_unet.tasks.plan.pipeline import load_planner

        return load_planner(path)
    if task == "video":
        from continuous_unet.tasks.video.pipeline import load_video

        return load_video(path)
    return load_pipeline(path) if task == "generate" else load_restorer(path, task)


def makes_clips(name: str) -> bool:
    """Returns whether this is a model of clips; what is no model at all is refused elsewhere."""
    return is_model(name) and trained_for(read_index(model_folder(Path(name)))) == "video"


def load_pipeline(
    path: Name, *, device: Device = None, dtype: torch.dtype | None = None, variant: str | None = None
) -> DiffusionSamplingPipeline:
    """Loads a pipeline that makes images from noise.

    Args:
        path: a run folder of `cunet train`, a saved pipeline (`model_index.json`), a bare model (`config.json` and
            safetensors, in one file or several; it gets the linear noise schedule of DDPM), or the name of a model of
            the package, of which a folder takes precedence.
        device: where to put it; where it was loaded (the CPU) if None.
        dtype: type of the weights; float32 if None, whatever they were saved as.
        variant: name of the variant of the weights, such as `"fp16"`. If None, the weights without a variant, or those
            of the only variant that exists.

    Raises:
        InputError: if there is nothing to load, or a file is damaged, or names a class that is not ours or diffusers'.
    """
    unet, scheduler, index = load_parts(Path(path), variant)
    task = trained_for(index)
    if task != "generate":
        made = {"plan": "makes plans (see `cunet plan`)", "video": "makes clips (see `cunet sample`)"}
        what = made.get(task, f"was trained for `cunet {task}`")
        raise InputError(f"{path} {what}; expected a model that makes images from noise (cunet train --task generate)")
    folder = model_folder(Path(path))
    facts = read_facts(folder)
    weights = None if facts.sampler is None else facts.sampler.weights
    foreign = weights is not None and weights != fingerprint(unet)
    facts = replace(facts, sampler=None) if foreign else facts
    pipeline = DiffusionSamplingPipeline(unet, scheduler, facts, load_codec(folder, facts))
    pipeline.foreign_times = foreign
    return pipeline.to(device=device, dtype=dtype)


def _saved_options(pipeline_class: type[RestorationPipeline], index: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the arguments of a pipeline's constructor that the index has, besides its parts."""
    hints = get_type_hints(pipeline_class.__init__).items()
    options = {name: index[name] for name, kind in hints if name in index and kind in (bool, int, float)}
    for name, value in options.items():
        kind = dict(hints)[name]
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise InputError(f"the index of {path} has {name}={value!r}; expected {kind.__name__}")
    return options


def load_model_or_preset(
    name: str, sample_size: int | None = None, channels: int | None = None, solver_steps: int | None = None
) -> Any:
    """Returns the U-Net of a run or a saved model, or a new one of a preset.

    Args:
        name: a preset, or what `load_pipeline` takes. A folder takes precedence over a preset of the same name.
        sample_size: side of a preset's images, or length of its sequences; 64 for `base` and `ddpm`, 16 for `tiny` and
            `planner`, 32 for the others if None. Clips of a preset have 8 frames.
        channels: channels of a preset's images; 1 for `tiny` and `clips`, 2 for `planner`, 3 for the others if None.
        solver_steps: number of solver steps in each block, if it should be changed.

    Raises:
        InputError: as `load_pipeline`, and for settings that do not fit.
    """
    from continuous_unet.models.presets import PRESETS

    if is_model(name):
        unet = load_parts(Path(name))[0]
    elif name in PRESETS:
        channels = channels or {"tiny": 1, "clips": 1, "planner": 2}.get(name, 3)
        size: Any = sample_size or {"base": 64, "ddpm": 64, "tiny": 16, "planner": 16}.get(name, 32)
        if name == "clips":
            size = (PRESET_FRAMES, *((size, size) if isinstance(size, int) else size))
        try:
            unet = build_unet(name, sample_size=size, in_channels=channels, out_channels=channels).eval()
        except ValueError as error:
            raise InputError(str(error)) from error
    else:
        raise InputError(
            f"{name} is neither a model on disk, nor one of the package (`cunet models` lists them), nor a preset "
            f"({', '.join(PRESETS)})"
        )
    set_solver_steps(unet, solver_steps)
    return unet


def set_solver_steps(unet: Any, num_steps: int | None) -> None:
    """Changes the number of solver steps of a continuous U-Net; None leaves it as it is.

    Raises:
        InputError: for another kind of model, or a number that is not possible.
    """
    if num_steps is None:
        return
    if not hasattr(unet, "set_solver"):
        raise InputError(f"solver steps are for continuous U-Nets, and this model is a {type(unet).__name__}")
    if num_steps > LARGEST["num_solver_steps"]:
        raise InputError(f"solver steps: {num_steps} are more than the {LARGEST['num_solver_steps']} that are allowed")
    try:
        unet.set_solver(num_steps=num_steps)
    except ValueError as error:
        raise InputError(f"solver steps: {error}") from error
