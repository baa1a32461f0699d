"""The library call behind `cunet distill`: a training run whose teacher decides what the data must be.

Imports no torch before it is called: the command line reads the options.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, option, section
from continuous_unet.base.results import Json
from continuous_unet.tasks.distill.options import DistillTraining
from continuous_unet.tasks.packaged import find_model
from continuous_unet.training.config import DataSettings, OptimizerSettings, RecordSettings, TrainConfig, may_change

if TYPE_CHECKING:
    from continuous_unet.base.signals import StopRequest
    from continuous_unet.training.report import TrainResult


@dataclass
class StudentOptimizer(OptimizerSettings):
    """Options of the optimizer of a student, which has little to learn and much to forget."""

    batch_size: int = option(64, "number of images in a batch, for each process", at_least=1)
    learning_rate: float = option(5e-4, "peak learning rate of AdamW", above=0, at_most=1e6)
    weight_decay: float = option(0.0, "weight decay of AdamW", between=(0, 1e6))
    ema_decay: float = option(0.999, "decay of the average, reached gradually", at_least=0, below=1)


@dataclass
class DistillOptions(Options):
    """Options of `cunet distill`."""

    teacher: str = may_change(
        "",
        "the model to learn from, which makes images from noise: a run folder of `cunet train`, a saved model, or the "
        "name of a model of the package",
        positional=True,
        required=True,
        metavar="MODEL",
    )
    output: str = may_change("", "folder of the run", required=True)
    steps: int = may_change(2_000, "number of training steps", at_least=1)
    seed: int = option(0, "seed of everything random", at_least=0)
    device: Literal["cpu", "cuda", "mps"] | None = may_change(
        None, "where to compute; the best device of this machine if left out"
    )
    student: DistillTraining = section(DistillTraining)
    data: DataSettings = section(DataSettings)
    optimizer: StudentOptimizer = section(StudentOptimizer)
    records: RecordSettings = section(RecordSettings)


def distill(options: DistillOptions, resume: bool = False, *, stop: "StopRequest | None" = None) -> "TrainResult":
    """Trains a student that makes in one to four evaluations what its teacher makes in many.

    The result is a run folder like that of `train`, with a copy of the teacher. Images have the size, the channels and
    the classes of the teacher.

    Args:
        options: all settings.
        resume: continue from the newest complete checkpoint in `options.output`.
        stop: asked whether to stop, in place of signals.

    Raises:
        InputError: for a teacher that the method or the data does not fit, and as `train`.
        TrainingDiverged: as `train`.
    """
    from continuous_unet.training.run import train

    options.validate()
    return train(config_of(options, resume), resume, stop=stop)


def config_of(options: DistillOptions, resume: bool = False) -> TrainConfig:
    """Returns the configuration of the run; a resumed one has its teacher in its own folder.

    Raises:
        InputError: for a model that cannot be loaded, or makes no images from noise.
    """
    from continuous_unet.diffusion.process import process_of
    from continuous_unet.tasks.loading import load_pipeline

    kept = Path(options.output) / "teacher"
    teacher = str(kept) if resume and kept.is_dir() else options.teacher
    pipeline = load_pipeline(teacher)
    config, known = pipeline.unet.config, pipeline.facts.conditions
    if pipeline.facts.sampler is not None and pipeline.facts.sampler.distilled:
        raise InputError(f"{teacher} was distilled itself, and takes too few steps to teach; name its teacher")
    if config.get("class_embed_type") is not None or config.in_channels != config.out_channels:
        raise InputError(
            f"{teacher} takes conditions other than classes and texts, which students are not given; name another "
            "teacher"
        )
    text = pipeline.facts.text
    if config.get("cross_attention_dim") is not None and text is None:
        raise InputError(f"{teacher} takes a text, and does not say how prompts are encoded; name a run of cunet train")
    dropped = known.null_class is not None or (text is not None and text.empty_prompt)
    task = options.student.replaced(
        class_conditional=config.num_class_embeds is not None,
        text_encoder=None if text is None else text.encoder,
        condition_dropout=options.student.condition_dropout if dropped else 0.0,
    )
    if config.sample_size is None:
        raise InputError(
            f"{teacher} does not say how large its images are; set sample_size in its config.json, or name another "
            "teacher"
        )
    channels, height, width = pipeline.image_shape
    given, default = options.data.to_dict(), DataSettings().to_dict()
    ours: Json = {
        "image_size": height if height == width else f"{height}x{width}",
        "channels": channels,
        "codec": None if pipeline.facts.codec is None else options.teacher,
        **_data_of(options.teacher),
    }
    data = {**given, **{name: value for name, value in ours.items() if given[name] == default[name]}}
    return TrainConfig.from_dict(
        {
            **{name: getattr(options, name) for name in ("output", "steps", "seed", "device")},
            "task": {"name": task.name, **task.to_dict()},
            "data": data,
            "model": {"start_from": options.teacher},
            "process": _named(process_of(pipeline.scheduler).options()),
            "optimizer": options.optimizer.to_dict(),
            "records": options.records.to_dict(),
        }
    )


def _named(options: Any) -> Json:
    return {"name": options.name, **options.to_dict()}


def _data_of(teacher: str) -> Json:
    """Returns how the images of a run were brought to their size; empty for a model without its run."""
    saved = find_model(teacher) / "config.yaml"
    if not saved.is_file():
        return {}
    data = TrainConfig.load(saved).data
    names = ("fit", "random_flip", "random_crop", "value_range", "captions", "caption_column")
    return {name: getattr(data, name) for name in names}
