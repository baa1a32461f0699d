"""The configuration of a training run, in sections, which checks itself. Imports no torch: `cunet --help` reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, build, flatten, leaves, option, section, variants
from continuous_unet.data.options import BUILT_IN, BUILT_IN_CLIPS, parse_image_size, parse_value_range
from continuous_unet.diffusion.options import PROCESSES, ProcessOptions, VariancePreservingOptions
from continuous_unet.models.presets import PRESETS
from continuous_unet.tasks.packaged import absolute_model
from continuous_unet.tasks.registry import OLD_NAMES, TRAINED
from continuous_unet.tasks.training_options import SolverTraining, TrainingOptions

if TYPE_CHECKING:
    from typing_extensions import Self


TASK_OPTIONS = {name: entry.training for name, entry in TRAINED.items() if entry.training is not None}
may_change = partial(option, may_change=True)
"""Declares a field that may change when a run is resumed: it does not change what is computed, only how long, where,
and what is kept."""


@dataclass
class DataSettings(Options):
    """Options of the training images."""

    source: str = may_change(
        "",
        "images to train on: a folder, .zip, .tar shards, IDX files, .npz, hf:NAME, or a built-in set (digits, shapes, "
        "scenes)",
        flat="data",
        required=True,
    )
    image_size: int | str | None = option(
        None, "side of the images in pixels, or HEIGHTxWIDTH such as 48x64; their own size if left out", metavar="SIZE"
    )
    channels: int | None = option(
        None, "1 (grey), 3 (RGB) or 4 (RGBA); those of the images if left out", choices=(1, 3, 4)
    )
    fit: Literal["crop", "pad", "stretch", "patch"] | None = option(
        None,
        "how images get their size: crop scales until the size is covered and cuts off the rest; pad shrinks images "
        "that are too large and adds black borders; stretch ignores the aspect ratio; patch cuts a piece at the "
        "image's own resolution (default: patch for denoise and upscale, otherwise crop)",
    )
    random_flip: bool = option(False, "mirror half of the images left to right, chosen at random")
    random_crop: bool | None = option(
        None, "crop at random places (with fit crop or patch); on for denoise and upscale, otherwise off, if left out"
    )
    on_bad_image: Literal["skip", "error"] = may_change("skip", "leave unreadable files out, or stop at the first")
    max_bad_images: float = may_change(
        0.01,
        "stop if more than this fraction of the images is unreadable; a single one stops the run only with "
        "--on-bad-image error",
        between=(0, 1),
    )
    value_range: str | None = option(
        None,
        "LOW:HIGH, the values of black and white in 16-bit, 32-bit and float images; if left out, decided once for all "
        "images of a type, from their type and their smallest and largest value",
    )
    max_pixels: int | None = may_change(
        None, "leave out images with more pixels than this (default: 89478485)", at_least=1
    )
    captions: Literal["auto", "metadata", "txt", "filename", "column"] = option(
        "auto",
        "where captions come from, with --text-encoder: metadata.jsonl or .csv, .txt files beside images, the names of "
        "images, or a column of an hf: set; auto takes the first that exists, but no file names",
    )
    caption_column: str | None = option(
        None, "column of an hf: set or of metadata files that holds captions (default: text, caption or prompt)"
    )
    codec: str | None = option(
        None,
        "train on the latents of an autoencoder instead of pixels: a run of --task codec, a folder with an autoencoder "
        "of diffusers, or OWNER/NAME on the Hugging Face hub",
        metavar="CODEC",
    )
    latents: str | None = may_change(
        None,
        "folder of the latents, which other runs with the same images and codec may share; they are made where missing "
        "(default: the folder latents of the run)",
        metavar="FOLDER",
    )
    num_validation: int = option(0, "number of images held out to measure the validation loss on", at_least=0)
    num_workers: int | None = may_change(
        None,
        "number of processes that load images; 0 loads them between training steps (default: 0 on a CPU, and for "
        "images that are kept in memory; otherwise one for each core, up to 8)",
        at_least=0,
    )
    keep_in_memory: Literal["auto", "yes", "no"] = may_change(
        "auto",
        "decode each image once, and keep it as bytes; auto does so on a GPU, for images that fit into a quarter of "
        "its memory and are not cropped at random",
    )

    def validate(self) -> "Self":
        super().validate()
        parse_image_size(self.image_size)
        parse_value_range(self.value_range)
        if self.latents is not None and self.codec is None:
            raise InputError("--latents is where the latents of a codec are kept; give --codec too, or leave it out")
        return self


@dataclass
class ModelSettings(Options):
    """Options of the model."""

    preset: str = option("small", "architecture of the model", choices=PRESETS)
    model_options: dict[str, Any] = option({}, "constructor arguments of the model that override the preset")
    start_from: str | None = may_change(
        None,
        "run, saved model, or model of the package to start from, in place of a preset's new weights",
        metavar="MODEL",
    )
    quantization_aware: bool = option(
        False, "round weights and activations in training as int8 will; for the last steps, with --start-from"
    )
    compile: bool = may_change(False, "compile the model with torch.compile")
    compile_scope: Literal["blocks", "model"] = may_change(
        "blocks",
        "what --compile compiles: the repeated blocks, once for each width, or the whole model, which takes longer to "
        "compile and may then be faster",
    )


@dataclass
class OptimizerSettings(Options):
    """Options of the optimizer."""

    batch_size: int = option(32, "number of images in a batch, for each process", at_least=1)
    gradient_accumulation_steps: int = option(1, "number of batches in a training step", at_least=1)
    learning_rate: float = option(2e-3, "peak learning rate of AdamW", above=0, at_most=1e6)
    lr_schedule: Literal["constant", "linear", "cosine", "constant_with_warmup"] = option(
        "cosine", "course of the learning rate over the run, after the warm-up; constant has no warm-up"
    )
    lr_warmup_steps: int = option(200, "number of training steps of linear warm-up; constant has none", at_least=0)
    weight_decay: float = option(1e-2, "weight decay of AdamW", between=(0, 1e6))
    adam_beta1: float = option(0.9, "decay of AdamW's first moment", at_least=0, below=1)
    adam_beta2: float = option(0.99, "decay of AdamW's second moment", at_least=0, below=1)
    gradient_clip: float | None = option(1.0, "largest norm of the gradient; no limit if none", above=0)
    ema: bool = option(True, "keep an exponential moving average of the weights, and use it for samples and the model")
    ema_decay: float = option(0.9995, "decay of the average, reached gradually", at_least=0, below=1)
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "precision of the computation; weights stay float32")
    max_non_finite_steps: int = may_change(
        10, "give up after this many steps in a row whose gradient is not finite", at_least=1
    )


@dataclass
class RecordSettings(Options):
    """Options of what is written during training."""

    checkpoint_every: int = may_change(1000, "number of training steps between checkpoints", at_least=1)
    keep_checkpoints: int = may_change(2, "number of checkpoints to keep", at_least=1)
    log_every: int = may_change(50, "number of training steps between records in metrics.jsonl", at_least=1)
    validate_every: int = may_change(1000, "number of training steps between validations", at_least=1)
    sample_every: int = may_change(1000, "number of training steps between pictures of the progress", at_least=1)
    num_samples: int = may_change(36, "number of images in a picture of the progress", at_least=1)
    sampling_steps: int = may_change(
        25, "number of sampling steps (DDIM) for a picture of the progress", old=("--sample-steps",), at_least=1
    )
    logger: Literal["none", "tensorboard", "wandb"] = may_change("none", "experiment tracker, besides metrics.jsonl")


@dataclass
class TrainConfig(Options):
    """The settings of a training run.

    Flat names, as on the command line, are accepted too: `TrainConfig.from_dict({"data": "digits", "steps": 100})`,
    `config.replaced(steps=200)`. Files of version 0.1.0 load.
    """

    output: str = may_change("", "folder of the run", required=True)
    steps: int = may_change(20_000, "number of training steps", at_least=1)
    seed: int = option(0, "seed of everything random", at_least=0)
    device: Literal["cpu", "cuda", "mps"] | None = may_change(
        None, "where to compute; the best device of this machine if left out"
    )
    task: TrainingOptions = variants(TASK_OPTIONS, "generate", "what the model learns", old=OLD_NAMES)
    data: DataSettings = section(DataSettings)
    model: ModelSettings = section(ModelSettings)
    process: ProcessOptions = variants(PROCESSES, VariancePreservingOptions.name, "noise process")
    optimizer: OptimizerSettings = section(OptimizerSettings)
    records: RecordSettings = section(RecordSettings)

    def validate(self) -> "Self":
        """Checks each field, and the fields of different sections against each other.

        Raises:
            InputError: naming the first option that is wrong, what was expected, and what to do.
        """
        super().validate()
        if self.model.start_from is not None and self.model.model_options:
            raise InputError(
                "--model-option is for a new model, and --start-from names an existing one; give one of them"
            )
        if not self.task.takes_preset:
            for name, default in (("preset", ModelSettings.preset), ("quantization_aware", False)):
                if getattr(self.model, name) != default:
                    flag = name.replace("_", "-")
                    raise InputError(f"--{flag} is for U-Nets, and --task {self.task.name} trains none; leave it out")
        if self.data.codec is not None and not self.task.takes_codec:
            raise InputError(
                f"--codec is for --task generate, and --task {self.task.name} works on pixels; leave it out"
            )
        self.task.check_process(self.process)
        return self

    @property
    def depths(self) -> tuple[int, ...]:
        """The numbers of solver steps that the model is trained with, ascending; empty for that of the model."""
        return self.task.depths() if isinstance(self.task, SolverTraining) else ()

    def changes(self, other: "TrainConfig") -> list[str]:
        """Returns how another configuration differs in the settings that a resumed run must keep."""
        before, now = self.flat(), other.flat()
        fixed = [name for name, leaf in leaves(TrainConfig).items() if not leaf.field.metadata.get("may_change")]
        shared = [name for name in fixed if name in before and name in now]  # tasks have options of their own
        return [f"{name} {before[name]!r} -> {now[name]!r}" for name in shared if before[name] != now[name]]

    def with_absolute_paths(self) -> "Self":
        """Returns a copy whose paths do not depend on the working directory."""
        places = {"output": str(Path(self.output).absolute()), "data": absolute_path(self.data.source)}
        if self.model.start_from is not None:
            places["start_from"] = absolute_model(self.model.start_from)
        encoder = self.flat().get("text_encoder")
        if encoder is not None:
            places["text_encoder"] = absolute_path(encoder)
        if self.data.codec is not None:
            places["codec"] = absolute_path(self.data.codec)
        if self.data.latents is not None:
            places["latents"] = str(Path(self.data.latents).absolute())
        return self.replaced(**places)


def recorded(values: Mapping[str, Any]) -> TrainConfig:
    """Returns the configuration that a run has recorded, from the values of its file.

    Options that a run of an earlier version has not recorded mean what it did, which need not be their default.
    """
    known = flatten(TrainConfig, values)
    if known.get("class_conditional"):
        known = {"condition_dropout": 0.0, **known}
    return build(TrainConfig, known)


def absolute_path(name: str) -> str:
    """Returns the absolute path of an existing file or folder; another name (a built-in set, `hf:NAME`) as it is."""
    prefix = "hf:" if name.startswith("hf:") else ""
    path = Path(name.removeprefix(prefix))
    return prefix + str(path.absolute()) if name not in (*BUILT_IN, *BUILT_IN_CLIPS) and path.exists() else name
