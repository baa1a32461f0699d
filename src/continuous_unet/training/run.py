"""The library call that trains a model, and the assembly of a run from its parts."""

import copy
import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import replace_folder
from continuous_unet.base.processes import Processes
from continuous_unet.base.randomness import derive_seed
from continuous_unet.base.results import Json
from continuous_unet.base.signals import StopRequest, stop_on_signals
from continuous_unet.codecs.autoencoder import Autoencoder
from continuous_unet.data import TrainingData, open_dataset, train_validation_split
from continuous_unet.data.loading import HeldOut
from continuous_unet.data.streaming import is_stream, open_stream
from continuous_unet.diffusion.process import process_of
from continuous_unet.tasks.base import Task
from continuous_unet.tasks.depths import with_depths
from continuous_unet.tasks.facts import Facts, read_facts
from continuous_unet.tasks.network import Network
from continuous_unet.tasks.registry import TASKS
from continuous_unet.tasks.saved import model_folder
from continuous_unet.training.config import TrainConfig
from continuous_unet.training.folder import RunFolder
from continuous_unet.training.latents import of_latents, open_codec, provide_latents
from continuous_unet.training.on_device import DeviceTrainer, trains_on_device
from continuous_unet.training.quantization_aware import round_convolutions
from continuous_unet.training.report import TrainResult
from continuous_unet.training.state import Learner
from continuous_unet.training.trainer import Trainer

EMA_WARMUP: Json = {"use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75}
"""The decay of the averaged weights is `1 - (1 + step)^(-3/4)`, up to the one that is set (`ema_decay`)."""


def train(config: TrainConfig, resume: bool = False, *, stop: StopRequest | None = None) -> TrainResult:
    """Trains a U-Net, continuous or discrete (presets `ddpm…`), for a task; writes checkpoints, records and a report.

    SIGINT and SIGTERM, to any of the processes, end the run after the current step, with a checkpoint
    (`TrainResult.stopped_by`). A validation or picture is cut short, and made up for when the run is resumed. A second
    signal raises KeyboardInterrupt at once.

    Args:
        config: all settings.
        resume: continue from the newest complete checkpoint in `config.output`.
        stop: asked whether to stop, in place of signals.

    Raises:
        InputError: for settings, data or files that cannot be used, and a run that another process is training.
        TrainingDiverged: after `max_non_finite_steps` steps in a row without a finite gradient, or when the weights
            are not finite where a checkpoint is due.
    """
    config.validate()
    config = config.with_absolute_paths()
    with RunFolder(config.output) as folder:
        trainer = assemble(config, folder, resume)
        try:
            with stop_on_signals() as signals:
                trainer.stop = stop or signals
                result = trainer.run()
            trainer.processes.wait()
        except Exception:
            trainer.leave()  # the others fail with this process, rather than wait for it
            raise
        trainer.leave()
    return result


def assemble(config: TrainConfig, folder: RunFolder, resume: bool) -> Trainer:
    """Returns a trainer with all parts of a run, restored from its checkpoint if it is resumed.

    The folder is claimed after everything that can refuse the configuration, so a refused run leaves no folder behind.

    Raises:
        InputError: for settings, data or files that cannot be used.
    """
    if resume:
        folder.check_run()
        source = Path(config.data.source)
        if source.is_absolute() and not source.exists():
            raise InputError(f"{source} does not exist; if the data has moved, give its new place with --data")
    accelerator = make_accelerator(config)
    processes = Processes(accelerator.state)
    task = make_task(config)
    kept = resume and folder.teacher.is_dir()  # a resumed student keeps its teacher, whatever has become of it
    origin = replace(config.model, start_from=str(folder.teacher)) if kept else config.model
    started = replace(config, model=origin)
    codec = open_codec(config, folder, resume)
    data, held_out = open_data(started, task, processes, folder.recorded_names() if resume else None, codec)
    if len(data.shape) == 3:
        task.process = task.process.for_images(*data.shape[1:])
    set_seed(derive_seed("weights", config.seed) % 2**32)
    model = make_model(started, task, data)
    learner = make_learner(config, model, accelerator)
    kind = DeviceTrainer if trains_on_device(config, accelerator) else Trainer
    trainer = kind(config, accelerator, folder, task, data, held_out, learner, processes)
    name = config.model.start_from or task.model_name(config.model.preset)
    processes.say(f"{type(model).__name__} ({name}): {learner.num_parameters:,} parameters, on {accelerator.device}")
    claim = folder.resume if resume else folder.start
    processes.by_main(lambda: claim(config, data, learner.num_parameters))
    if task.teacher is not None:
        trainer.teacher = task.teacher.to(accelerator.device).unet
        if not kept:
            processes.by_main(lambda: replace_folder(folder.teacher, task.teacher.save_pretrained))
    if codec is not None:
        task.process = task.process.for_latents()
        codec.to(accelerator.device)
        provide_latents(config, folder, task, data, codec, processes)
    if resume:
        trainer.restore()
    if config.records.logger != "none":
        accelerator.init_trackers("continuous-unet")
    return trainer


def make_task(config: TrainConfig) -> Task:
    """Returns the task of a run."""
    kind = TASKS[config.task.name].load_task()
    return kind(
        config.task,
        kind.make_process(config.process),
        seed=config.seed,
        num_samples=config.records.num_samples,
        sampling_steps=config.records.sampling_steps,
    )


def open_data(
    config: TrainConfig,
    task: Task,
    processes: Processes,
    recorded: Json | None = None,
    codec: Autoencoder | None = None,
) -> tuple[TrainingData, HeldOut | None]:
    """Returns the data to train on, and what is held out for validation (None without any).

    Args:
        config: the configuration of the run.
        task: decides what the configuration leaves open.
        processes: the processes that share the data.
        recorded: names of the images and classes that a resumed run was started with, as `open_dataset` takes them.
        codec: makes the latents to train on; None for pixels.

    Raises:
        InputError: for data that cannot be used.
    """
    settings = config.data
    own = task.open_data(settings, config.seed)
    if own is not None:
        processes.say(own[0].report.summary())
        return own
    names = "image_size", "fit", "random_crop", "channels", "random_flip", "max_bad_images", "value_range", "max_pixels"
    common: Json = {name: getattr(settings, name) for name in names}
    common |= {name: getattr(task, name) for name in names[:3] if common[name] is None}
    common["seed"] = config.seed
    if is_stream(settings.source):
        if settings.num_validation or task.class_conditional or task.needs_captions:
            problem = "a stream of shards has no images to hold out, no classes and no captions"
            raise InputError(f"{problem}; leave out --num-validation, --class-conditional and --text-encoder")
        if codec is not None:
            raise InputError(
                "a stream of shards is not encoded before training; leave --codec out, or unpack the shards"
            )
        stream = open_stream(settings.source, **common, readers=processes.count * max(1, settings.num_workers or 0))
        processes.say(stream.report.summary())
        return stream, None
    common |= {"on_bad_image": settings.on_bad_image, "progress": processes.main, **(recorded or {})}
    if task.needs_captions:
        common |= {"captions": settings.captions, "caption_column": settings.caption_column}
    dataset = open_dataset(settings.source, **common)
    processes.say(dataset.report.summary())
    task.use_data(dataset.report)
    if task.needs_captions and dataset.captions is not None:
        start = config.model.start_from
        facts = Facts() if start is None else read_facts(model_folder(Path(start)))
        dataset = dataset.with_tokens(task.use_captions(dataset.captions, facts))
    if codec is not None:
        dataset = of_latents(dataset, codec)
    data, held_out = train_validation_split(dataset, settings.num_validation, config.seed)
    return data, held_out if len(held_out) else None


def make_model(config: TrainConfig, task: Task, data: TrainingData) -> nn.Module:
    """Returns the model of a run: a new one from a preset, or the model that `start_from` names.

    The model is tried on one image of zeros, so that a model that fails is refused before anything is written.

    Raises:
        InputError: for settings that do not fit together, or to the data.
    """
    settings, (channels, *sides) = config.model, data.shape
    size = sides[0] if len(set(sides)) == 1 else tuple(sides)
    arguments = {"sample_size": size, **task.model_arguments(channels, settings.preset)}
    if settings.start_from is not None:
        model = _load_start(settings.start_from, task, arguments)
    else:
        try:
            model = task.new_model(settings.preset, arguments, settings.model_options)
        except (ValueError, TypeError) as error:
            where = {1: "--horizon", 2: "--image-size", 3: "--frames and --image-size"}[len(sides)]
            hint = f" ({where})" if "sample_size is" in str(error) else ""
            raise InputError(f"the model cannot be made: {error}{hint}") from error
    model = with_depths(model, config.depths)
    if settings.quantization_aware:
        round_convolutions(model)
    if len(sides) == 2:
        task.check_size(model, *sides)
    image = torch.zeros(1, cast(Network, model).config.in_channels, *sides)
    try:
        with torch.no_grad():
            model.eval()(image, 0, **task.trial_conditions())
    except (ValueError, RuntimeError) as error:
        if len(sides) == 1:
            raise InputError(f"the model does not work on a horizon of {sides[0]} time steps: {error}") from error
        what = "images" if data.shape[1:] == data.report.size else "latents"
        shown = "x".join(map(str, sides))
        raise InputError(f"the model does not work on {what} of {shown} pixels: {error}") from error
    return model


def _load_start(name: str, task: Task, arguments: Json) -> nn.Module:
    """Returns the model of a run or saved model, to be trained further with these constructor arguments.

    Raises:
        InputError: if it cannot be loaded, or was made for other images, classes or another noise process.
    """
    model, scheduler = task.start_from(name)
    own = cast(Network, model).config
    words = {
        "sample_size": "the size of the images",
        "in_channels": "the number of input channels",
        "out_channels": "the number of output channels",
        "num_class_embeds": "the number of classes, and one more with --condition-dropout",
        "cross_attention_dim": "the width of the text",
    }
    pairs = {word: (own.get(key), arguments.get(key)) for key, word in words.items()}
    if not task.sized:
        del pairs[words["sample_size"]]
    if scheduler is not None:
        theirs, ours = process_of(scheduler), task.process
        pairs["the noise process"] = theirs.name, ours.name
        pairs["the objective"] = theirs.prediction_type, ours.prediction_type
        pairs["the noise schedule"] = (theirs.describe().get("alphas_cumprod"), ours.describe().get("alphas_cumprod"))
    options = {
        "the size of the images": "--image-size",
        "the number of input channels": "--channels",
        "the noise process": "--process",
        "the objective": "--objective",
    }
    differences, advice = [], []
    for word, (has, given) in pairs.items():
        has, given = (tuple(value) if isinstance(value, list) else value for value in (has, given))
        if has != given:
            differences.append(word if word == "the noise schedule" else f"{word} ({has}, and here {given})")
            if word in options and has is not None:
                shown = "x".join(map(str, has)) if isinstance(has, tuple) else has
                advice.append(f"{options[word]} {shown}")
            elif word == "the noise schedule" and theirs.name == ours.name:
                advice.append(f"--noise-schedule {scheduler.config.beta_schedule}")
    if differences:
        alike = f"make them alike ({' '.join(advice)})" if advice else "make them alike"
        raise InputError(
            f"the model {name} to start from differs from this run in {', and in '.join(differences)}; {alike}"
        )
    return model


def make_learner(config: TrainConfig, model: nn.Module, accelerator: Accelerator) -> Learner:
    """Returns a model with its optimizer, learning rate and averages, on the device of a run."""
    settings, on_device = config.optimizer, trains_on_device(config, accelerator)
    layout = torch.channels_last if accelerator.device.type == "cuda" else torch.preserve_format
    if layout == torch.channels_last:
        model = model.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.weight_decay,
        **({"fused": True, "capturable": accelerator.device.type == "cuda"} if on_device else {}),
    )
    lr_scheduler = get_scheduler(
        settings.lr_schedule, optimizer, num_warmup_steps=settings.lr_warmup_steps, num_training_steps=config.steps
    )
    scope = config.model.compile_scope if config.model.compile else None
    twin = with_compiled_blocks(model.to(accelerator.device)) if scope == "blocks" else None
    network, prepared = accelerator.prepare(model if twin is None else twin, optimizer)
    return Learner(
        model=model,
        wrapped=cast(nn.Module, torch.compile(network)) if scope is not None and twin is None else network,
        optimizer=prepared,
        lr_scheduler=lr_scheduler,
        ema=EMAModel(model.parameters(), decay=settings.ema_decay, **EMA_WARMUP) if settings.ema else None,
        scaler=accelerator.scaler,
        memory_format=layout,
    )


def with_compiled_blocks(model: nn.Module) -> nn.Module | None:
    """Returns a model with the same weights whose repeated blocks are compiled; None if it has no repeated blocks.

    The model itself stays as it is, for validations and pictures: their batches have other sizes, and each would have
    to be compiled too.
    """
    if not getattr(model, "_repeated_blocks", None):
        return None
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, memo=tensors)
    cast(Any, twin).compile_repeated_blocks(fullgraph=True)
    return twin


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Returns accelerate's object for the devices, processes and precision of a run.

    Raises:
        InputError: if this machine lacks what the configuration asks for.
    """
    logger, precision = config.records.logger, config.optimizer.mixed_precision
    if logger != "none" and importlib.util.find_spec(logger) is None:
        raise InputError(f"--logger {logger} needs the package {logger}: pip install 'continuous-unet[{logger}]'")
    for strategy in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if os.environ.get(f"ACCELERATE_USE_{strategy}", "false").lower() in ("1", "true"):
            raise InputError(
                f"accelerate is configured for {strategy}, which splits the weights, and checkpoints here hold them "
                "whole; use several processes with whole weights (accelerate launch --multi_gpu, or torchrun)"
            )
    # accelerate keeps its settings for the life of the process; another run in it may want others
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=precision,
        gradient_accumulation_steps=config.optimizer.gradient_accumulation_steps,
        log_with=None if logger == "none" else logger,
        project_dir=config.output,
    )
    found = accelerator.device.type
    if config.device not in (None, found):
        raise InputError(f"--device {config.device} is not available here; leave it out to use {found}")
    if precision == "fp16" and found == "cpu":
        raise InputError("--mixed-precision fp16 needs a GPU; on the CPU use bf16, or no")
    return accelerator
