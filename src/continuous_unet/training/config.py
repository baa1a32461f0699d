"""The configuration of a training run: one dataclass, which checks itself.

Imports no torch: `cunet --help` reads it.
"""

import difflib
import types
import typing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import replace_text
from continuous_unet.models.presets import PRESETS


def option(default: Any, text: str) -> Any:
    """A field with the help text that the command line shows."""
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class TrainConfig:
    """Everything that a run depends on. `validate` says what is wrong; `save` and `load` are YAML."""

    data: str = option(
        "", "folder of images, .zip, .tar shards, IDX files, .npz, hf:NAME, or a built-in set (digits, shapes)"
    )
    output: str = option("", "folder of the run")
    task: Literal["generation", "denoise", "super-resolution"] = option("generation", "what the model learns")
    preset: str = option("small", f"model preset: {', '.join(PRESETS)}")
    model_options: dict[str, Any] = option({}, "constructor arguments of the model that override the preset")
    start_from: str | None = option(None, "a run or saved model to train further, in place of a preset's new one")
    steps: int = option(20_000, "updates of the weights")
    batch_size: int = option(32, "images per step and process")
    gradient_accumulation_steps: int = option(1, "batches per update")
    seed: int = option(0, "seed of everything random")

    image_size: int | None = option(None, "side of the images in pixels; their own if left out")
    channels: int | None = option(None, "1 (grey), 3 (RGB) or 4 (RGBA); what the images have if left out")
    fit: Literal["crop", "pad", "stretch", "patch"] | None = option(
        None, "how images become square; patch, pieces at their own resolution, for restoration, and crop otherwise"
    )
    random_flip: bool = option(False, "mirror half of the images")
    random_crop: bool | None = option(None, "crop at random places (with fit=crop and patch); if left out, patches are")
    on_bad_image: Literal["skip", "error"] = option("skip", "leave unreadable files out, or stop at the first")
    max_bad_images: float = option(0.01, "stop if more than this share of the images cannot be used (one always may)")
    num_validation: int = option(0, "images held out to measure the validation loss on")
    num_workers: int = option(0, "processes that load images")

    objective: Literal["epsilon", "v_prediction", "sample"] | None = option(
        None, "what the model predicts; epsilon for generation and v_prediction for super-resolution if left out"
    )
    loss: Literal["squared", "absolute"] | None = option(
        None, "error that is made small; squared for generation and absolute for restoration if left out"
    )
    sigma: str = option("0:55", "noise to be removed, LOW:HIGH of 255, for task=denoise")
    sigma_conditioned: bool = option(False, "tell the model the strength of the noise, for task=denoise")
    scale: int = option(2, "how often images are enlarged, 2, 3 or 4, for task=super-resolution")
    regression_share: float = option(
        0.5, "part of the images that the one-step answer is learned on, for task=super-resolution"
    )
    min_snr_gamma: float | None = option(
        None, "cap of the signal-to-noise weight (5 is usual); no weighting if left out"
    )
    noise_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = option(
        "linear", "betas of the diffusion process"
    )
    num_train_timesteps: int = option(1000, "timesteps of the diffusion process")
    class_conditional: bool = option(False, "condition the model on the classes of the data")

    learning_rate: float = option(2e-3, "peak learning rate of AdamW")
    lr_schedule: Literal["constant", "linear", "cosine", "constant_with_warmup"] = option(
        "cosine", "learning rate over the run (after the warm-up)"
    )
    lr_warmup_steps: int = option(200, "steps of linear warm-up")
    weight_decay: float = option(1e-2, "weight decay of AdamW")
    adam_beta1: float = option(0.9, "first-moment decay of AdamW")
    adam_beta2: float = option(0.99, "second-moment decay of AdamW")
    gradient_clip: float | None = option(1.0, "largest norm of the gradient")
    ema: bool = option(True, "keep an exponential moving average of the weights, and sample from it")
    ema_decay: float = option(0.9995, "decay of the average, reached gradually")
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "precision of the computation; weights stay float32")
    quantization_aware: bool = option(
        False, "round weights and activations in training as int8 will; for the last steps, with --start-from"
    )
    compile: bool = option(False, "compile the model with torch.compile")
    device: Literal["cpu", "cuda", "mps"] | None = option(None, "where to compute; the best there is if left out")
    max_non_finite_steps: int = option(10, "give up after so many steps in a row with a gradient that is not finite")

    checkpoint_every: int = option(1000, "steps between checkpoints")
    keep_checkpoints: int = option(2, "checkpoints to keep")
    log_every: int = option(50, "steps between records in metrics.jsonl")
    validate_every: int = option(1000, "steps between validations")
    sample_every: int = option(1000, "steps between grids of samples")
    num_samples: int = option(36, "images in a grid of samples")
    sample_steps: int = option(25, "DDIM steps of a grid of samples")
    logger: Literal["none", "tensorboard", "wandb"] = option("none", "tracker beside metrics.jsonl")

    def validate(self) -> "TrainConfig":
        """Check every field by itself.

        Raises:
            InputError: naming the first field that is wrong, what was expected, and what to do.
        """
        check_types(self)
        if not self.data:
            raise InputError("no data was named; give a folder or file with --data, or --data digits to try things out")
        if not self.output:
            raise InputError("no output was named; give the folder for the run with --output")
        if self.preset not in PRESETS:
            raise InputError(f"preset={self.preset!r} is unknown; expected one of {', '.join(PRESETS)}")
        if self.start_from is not None and self.task != "generation":
            raise InputError("start_from is for --task generation; a run of another task goes on by --resume --steps N")
        if self.start_from is not None and self.model_options:
            raise InputError("model_options make a new model, and start_from names one that is there; give one of them")
        at_least = {
            1: ("steps", "batch_size", "gradient_accumulation_steps", "num_train_timesteps", "checkpoint_every",
                "keep_checkpoints", "log_every", "validate_every", "sample_every", "num_samples", "sample_steps",
                "max_non_finite_steps"),
            0: ("num_validation", "num_workers", "lr_warmup_steps", "weight_decay"),
        }  # fmt: skip
        for least, names in at_least.items():
            for name in names:
                if getattr(self, name) < least:
                    raise InputError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.image_size is not None and self.image_size < 1:
            raise InputError(f"image_size={self.image_size} must be at least 1")
        if self.channels not in (None, 1, 3, 4):
            raise InputError(f"channels={self.channels} must be 1, 3 or 4")
        for name in ("learning_rate", "gradient_clip", "min_snr_gamma"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name}={value} must be positive and finite")
        for name in ("learning_rate", "weight_decay"):
            if (
                not getattr(self, name) <= 1e6
            ):  # also where it is not a number; far larger ones overflow in the optimiser
                raise InputError(f"{name}={getattr(self, name)} must be at most 1e6")
        self._check_task()
        if not 0 <= self.max_bad_images <= 1:
            raise InputError(f"max_bad_images={self.max_bad_images} must lie in [0, 1]: it is a share")
        for name in ("ema_decay", "adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        return self

    def _check_task(self) -> None:
        sigma_range(self.sigma)
        if self.scale not in (2, 3, 4):
            raise InputError(f"scale={self.scale} must be 2, 3 or 4")
        if not 0 <= self.regression_share <= 1:
            raise InputError(f"regression_share={self.regression_share} must lie in [0, 1]: it is a share")
        if self.task == "denoise" and self.objective is not None:
            raise InputError("objective is for generation and super-resolution; a denoiser predicts the noise")
        if self.task == "super-resolution" and self.objective == "epsilon":
            raise InputError(
                "objective=epsilon tells nothing where the input is all noise, which super-resolution starts from; use "
                "v_prediction or sample"
            )
        if self.task == "generation" and self.loss == "absolute":
            raise InputError("loss=absolute is for restoration; generation learns means, by loss=squared")
        if self.task != "generation":
            for name in ("class_conditional", "min_snr_gamma"):
                if getattr(self, name):
                    raise InputError(f"{name} is for generation, not for task={self.task}; leave it out")

    def to_dict(self) -> dict[str, Any]:
        """Values as YAML has them (lists for tuples), in the order of the fields."""
        return _plain(asdict(self))

    def save(self, path: str | Path) -> None:
        """Write YAML; the file is whole or the old one at every moment."""
        replace_text(path, yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))

    @classmethod
    def load(cls, path: str | Path) -> "TrainConfig":
        """Read YAML.

        Raises:
            InputError: for a file that cannot be read, a key that is no field, or a value of the wrong type.
        """
        values = read_yaml(path, [f.name for f in fields(cls)])
        hints = typing.get_type_hints(cls)
        for name, value in values.items():
            if float in _kinds(hints[name]) and isinstance(value, str):
                values[name] = value = _number(value)
            _check_type(name, value, hints[name])
        return cls(**values)


def sigma_range(text: str) -> tuple[float, float]:
    """`LOW:HIGH`, or one number, as two.

    Raises:
        InputError: for anything else than 0 <= LOW <= HIGH <= 255, HIGH above 0.
    """
    try:
        low, high = (float(part) for part in text.split(":")) if ":" in text else (float(text),) * 2
    except ValueError:
        low, high = 1.0, 0.0
    if not (0 <= low <= high <= 255 and high > 0):
        raise InputError(f"sigma={text!r} must be LOW:HIGH or one number, 0 to 255, for example 0:55")
    return low, high


def read_yaml(path: str | Path, names: list[str]) -> dict[str, Any]:
    """A YAML mapping whose keys are among `names`.

    Raises:
        InputError: otherwise, naming the nearest key.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: of undecodable bytes, dates …
        reason = str(error).replace("\n", " ")
        raise InputError(f"the configuration {path} cannot be read: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"the configuration {path} is no mapping of options; expected lines like `steps: 1000`")
    for key in content:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"the configuration {path} has the unknown option {key!r}{hint}")
    return content


def check_types(options: Any) -> None:
    """Check the values of a dataclass of options against its annotations.

    Raises:
        InputError: naming the first field whose value has another type.
    """
    for name, annotation in typing.get_type_hints(type(options)).items():
        _check_type(name, getattr(options, name), annotation)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The parts of a union; the annotation itself if it is none."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _number(text: str) -> float | str:
    """YAML 1.1 reads `1e-3`, which has no point, as text."""
    try:
        return float(text)
    except ValueError:
        return text


def _check_type(name: str, value: Any, annotation: Any) -> None:
    expected = []
    for kind in _kinds(annotation):
        if typing.get_origin(kind) is Literal:
            if value in typing.get_args(kind):
                return
            expected += [repr(choice) for choice in typing.get_args(kind)]
            continue
        if typing.get_origin(kind) is list and isinstance(value, list):
            for item in value:
                _check_type(f"an entry of {name}", item, typing.get_args(kind)[0])
            return
        kind = typing.get_origin(kind) or kind
        # whole numbers are good where fractions are, but True is no 1
        if isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool)):
            return
        expected.append("None" if kind is type(None) else kind.__name__)
    raise InputError(f"{name}={value!r} must be {' or '.join(expected)}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
