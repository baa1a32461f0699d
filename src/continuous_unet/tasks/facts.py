"""What a saved model knows besides its weights, such as the names of its classes: one file beside `model_index.json`.

A model without this file knows nothing more, as those of earlier versions. A new kind of fact is a frozen dataclass
that derives from `Section` (`section.py`), and a field of `Facts`. Reading is strict, because files may come from
anyone.
"""

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import replace_text
from continuous_unet.base.results import Json
from continuous_unet.codecs.autoencoder import Autoencoder, fingerprint, load_autoencoder
from continuous_unet.codecs.base import Scale
from continuous_unet.models.saved import read_json
from continuous_unet.tasks.plan.facts import PlanFacts
from continuous_unet.tasks.section import Section
from continuous_unet.tasks.training_options import MOST_SOLVER_STEPS
from continuous_unet.text.encoders import BUILT_IN, TextEncoder, open_encoder
from continuous_unet.text.subwords import SPECIAL
from continuous_unet.text.transformer import TextEncoderConfig

FILE = "continuous_unet.json"
MOST_ENTRIES = 100_000
"""The largest number of values in a list, such as the names of classes."""


@dataclass(frozen=True)
class ConditionFacts(Section):
    """What a model can be asked for."""

    classes: tuple[str, ...] | None = None
    """The names of the classes by number; None if the model has no classes, or their names are unknown."""
    null_class: int | None = None
    """The number that stands for "any class"; None for a model that was not trained with one."""
    guidance_scale: float = 1.0
    """The guidance scale of sampling if none is given."""

    def __post_init__(self) -> None:
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes has a name twice")
        if self.null_class is not None and self.null_class < 0:
            raise ValueError(f"null_class is {self.null_class}; expected a number of at least 0")
        if not 0 <= self.guidance_scale <= 1000:
            raise ValueError(f"guidance_scale is {self.guidance_scale}; expected 0 to 1000")

    def check_model(self, config: Any) -> None:
        rows = getattr(config, "num_class_embeds", None) or 0
        null = 0 if self.null_class is None else 1
        if null and self.null_class != rows - 1:
            raise ValueError(
                f"null_class is {self.null_class}; expected the number of the last of the model's {rows} classes"
            )
        if self.classes is not None and len(self.classes) != rows - null:
            raise ValueError(f"classes has {len(self.classes)} names, and the model {rows - null} classes")


@dataclass(frozen=True)
class TextFacts(Section):
    """How prompts become what a model is conditioned on, as `text.encoders.open_encoder` takes it."""

    encoder: str
    """`"built-in"`, or the name or path of an encoder of transformers."""
    max_length: int
    """Number of tokens of a prompt, padded or cut."""
    vocabulary: tuple[str, ...] | None = None
    """The tokens of the built-in encoder, by number."""
    empty_prompt: bool = True
    """Whether the model was trained with the empty prompt, which stands for any image, beside the captions."""

    def make_encoder(self) -> TextEncoder:
        """Returns the encoder; the same one for the same facts.

        Raises:
            InputError: if it cannot be loaded.
        """
        return open_encoder(self.encoder, self.max_length, self.vocabulary)

    def __post_init__(self) -> None:
        if not 3 <= self.max_length <= 1024:
            raise ValueError(f"max_length is {self.max_length}; expected 3 to 1024")
        if self.encoder != BUILT_IN:
            return
        if self.vocabulary is None or self.vocabulary[: len(SPECIAL)] != SPECIAL:
            raise ValueError(f"vocabulary must begin with {', '.join(SPECIAL)}")
        if len(set(self.vocabulary)) < len(self.vocabulary):
            raise ValueError("vocabulary has a token twice")

    def check_model(self, config: Any) -> None:
        own = getattr(config, "text_encoder_config", None)
        if getattr(config, "cross_attention_dim", None) is None or (own is None) != (self.encoder != BUILT_IN):
            raise ValueError(f"encoder is {self.encoder!r}, and the model was not made for it")
        if own is not None:
            settings, has = TextEncoderConfig.of(own), (len(self.vocabulary or ()), self.max_length)
            if (settings.vocabulary_size, settings.max_length) != has:
                raise ValueError(
                    f"vocabulary has {has[0]} tokens and max_length is {has[1]}, and the model was made for "
                    f"{settings.vocabulary_size} and {settings.max_length}"
                )


@dataclass(frozen=True)
class SamplerFacts(Section):
    """The model's own sampler: the times at which it is evaluated, and the order of its steps."""

    times: tuple[tuple[float, ...], ...]
    """A list for each number of sampling steps that there is one for; the last evaluation leads to the clean image."""
    fresh_noise: bool = False
    """Whether each step but the last draws its noise anew."""
    distilled: bool = False
    """Whether the model was distilled for these numbers of sampling steps, and works with no others."""
    weights: str | None = None
    """The fingerprint of the weights that the times were searched for."""
    second_order: tuple[int, ...] = ()
    """The numbers of sampling steps whose steps are of second order (`make_rows`)."""

    def __post_init__(self) -> None:
        if not self.times:
            raise ValueError("times is empty; expected a list for each number of steps")
        for times in self.times:
            if not times or times[-1] < 0 or any(a <= b for a, b in pairwise(times)):
                raise ValueError(f"times has {list(times)}; expected times in descending order, none below 0")
        if len(set(map(len, self.times))) < len(self.times):
            raise ValueError("times has two lists of the same length; expected one for each number of steps")
        if self.second_order and (self.fresh_noise or self.distilled):
            raise ValueError("second_order is for searched times, and this sampler is distilled or draws new noise")
        if not {*self.second_order} <= {*self.numbers}:
            raise ValueError(f"second_order is {list(self.second_order)}; expected lengths of lists in times")

    @property
    def numbers(self) -> list[int]:
        """The numbers of sampling steps that there are times for, in ascending order."""
        return sorted(map(len, self.times))

    def order(self, number: int) -> int:
        """Returns the order of the steps, 1 or 2, for a number of sampling steps."""
        return 2 if number in self.second_order else 1


@dataclass(frozen=True)
class CodecFacts(Section):
    """How the latents that a model makes become images. The autoencoder itself is in the folder `codec`."""

    factor: int
    """How many times smaller the sides of the latents are than those of the images."""
    channels: int
    """Number of channels of the images."""
    mean: tuple[float, ...]
    """The mean of each channel of the latents of the training images; see `codecs.base.Scale`."""
    std: tuple[float, ...]
    """Their standard deviation."""
    sha256: str
    """The checksum of the autoencoder, see `codecs.autoencoder.fingerprint`."""

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= 1024 or not 1 <= self.channels <= 1024:
            raise ValueError(f"factor is {self.factor} and channels {self.channels}; expected 1 to 1024")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}; expected as many of each")
        if not all(value > 0 for value in self.std):
            raise ValueError("std has a value that is not above 0")

    def check_model(self, config: Any) -> None:
        if len(self.mean) != config.in_channels:
            raise ValueError(f"mean has {len(self.mean)} values, and the model {config.in_channels} channels")

    def scale(self) -> Scale:
        """Returns the scale of the latents."""
        return Scale(self.mean, self.std)

    @staticmethod
    def of(codec: Autoencoder) -> "CodecFacts":
        """Returns the facts of a codec with a scale."""
        assert codec.scale is not None
        return CodecFacts(codec.factor, codec.channels, codec.scale.mean, codec.scale.std, fingerprint(codec))


@dataclass(frozen=True)
class SolverStepFacts(Section):
    """The number of solver steps by noise level: what `num_solver_steps="auto"` takes."""

    steps: tuple[int, ...]
    """For each band of the timesteps, from least noise up; all bands are equally wide."""
    timesteps: int
    """Number of timesteps of the noise process."""
    depths: tuple[int, ...]
    """The numbers of solver steps that were measured."""
    losses: tuple[tuple[float, ...], ...]
    """The loss on held-out images for each of them, in each band."""

    def __post_init__(self) -> None:
        if not self.steps or self.timesteps < 1:
            raise ValueError(f"steps has {len(self.steps)} bands of {self.timesteps} timesteps; expected some")
        if not self.depths or not all(1 <= depth <= MOST_SOLVER_STEPS for depth in self.depths):
            raise ValueError(f"depths must be numbers of solver steps, 1 to {MOST_SOLVER_STEPS}")
        if not set(self.steps) <= set(self.depths):
            raise ValueError("steps has a number that is not among depths")
        if len(self.losses) != len(self.depths) or any(len(row) != len(self.steps) for row in self.losses):
            raise ValueError("losses must have a row for each of depths, and a value for each of steps")

    def check_model(self, config: Any) -> None:
        if getattr(config, "num_solver_steps", None) is None:
            raise ValueError("steps is for continuous U-Nets, and this model has no solver steps")

    def at(self, timestep: float) -> int:
        """Returns the number of solver steps at a timestep."""
        band = int(timestep * len(self.steps) / self.timesteps)
        return self.steps[min(max(band, 0), len(self.steps) - 1)]


@dataclass(frozen=True)
class Facts:
    """Everything in the file, one section for each kind of fact."""

    conditions: ConditionFacts = ConditionFacts()
    text: TextFacts | None = None
    sampler: SamplerFacts | None = None
    codec: CodecFacts | None = None
    solver_steps: SolverStepFacts | None = None
    plan: PlanFacts | None = None

    def check_model(self, config: Any) -> None:
        """Checks all sections against the configuration of a U-Net.

        Raises:
            InputError: naming the section that does not fit.
        """
        for field in dataclasses.fields(self):
            section = getattr(self, field.name)
            try:
                if section is not None:
                    section.check_model(config)
            except ValueError as error:
                raise InputError(f"the facts do not fit the model: {field.name}.{error}") from error


def read_facts(folder: Path) -> Facts:
    """Returns the facts of a saved model.

    Raises:
        InputError: for a file that cannot be read, or has an unknown entry or an invalid value.
    """
    path = folder / FILE
    if not path.exists():
        return Facts()
    try:
        return typing.cast(Facts, _read(Facts, read_json(path), ""))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: {error}; the model is damaged, or of a newer version") from error


def load_codec(folder: Path, facts: Facts) -> Autoencoder | None:
    """Returns the codec of a saved model, with the scale of its latents; None for a model of pixels.

    Raises:
        InputError: if it is missing or damaged, or another than the model was trained with.
    """
    if facts.codec is None:
        return None
    if not (folder / "codec").is_dir():
        raise InputError(f"{folder / 'codec'} is missing; the model makes latents, and needs it to make images of them")
    codec = load_autoencoder(str(folder / "codec"))
    if CodecFacts.of(codec.scaled(facts.codec.scale())) != facts.codec:
        raise InputError(f"{folder / 'codec'} is another codec than the model was trained with; the model is damaged")
    if len(facts.codec.mean) != codec.latent_channels:
        raise InputError(f"{folder / FILE}: codec.mean has other channels than the codec; the model is damaged")
    return codec.scaled(facts.codec.scale())


def write_facts(folder: Path, facts: Facts) -> None:
    """Writes the facts of a saved model; without any, no file, as for models of earlier versions."""
    content = _plain(facts)
    if content:
        replace_text(folder / FILE, json.dumps(content, indent=1) + "\n")
    else:
        (folder / FILE).unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Returns facts as JSON holds them; values that are the default are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries: Json = {}
        for field in dataclasses.fields(value):
            content = getattr(value, field.name)
            if content != field.default:
                entries[field.name] = _plain(content)
        return entries
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


_WORDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false", types.NoneType: "null"}


def _read(kind: Any, value: object, name: str) -> Any:
    """Returns JSON as a value of a type.

    Raises:
        ValueError: naming the entry, and what was expected.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (kind,) = (option for option in arguments if option is not types.NoneType)
        return None if value is None and types.NoneType in arguments else _read(kind, value, name)
    if origin is tuple:
        return _read_list(arguments, value, name)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise ValueError(f"{name} is {_shown(value)}; expected an object")
        hints, prefix = typing.get_type_hints(kind), f"{name}." if name else ""
        for key in value:
            if key not in hints:
                raise ValueError(f"{prefix}{_shown(key)} is an unknown entry")
        needed = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
        for key in needed:
            if key not in value:
                raise ValueError(f"{prefix}{key} is missing")
        found = {key: _read(hints[key], item, f"{prefix}{key}") for key, item in value.items()}
        try:
            return kind(**found)
        except ValueError as error:
            raise ValueError(f"{prefix}{error}") from error
    fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{name} is {_shown(value)}; expected {_WORDS[kind]}")
    if kind is float:
        try:
            return float(typing.cast(float, value))
        except OverflowError:
            raise ValueError(f"{name} is {_shown(value)}; expected a smaller number") from None
    return value


def _read_list(arguments: tuple[Any, ...], value: object, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > MOST_ENTRIES:
        raise ValueError(f"{name} is {_shown(value)}; expected a list of at most {MOST_ENTRIES} values")
    kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
    if len(kinds) != len(value):
        raise ValueError(f"{name} has {len(value)} values; expected {len(kinds)}")
    return tuple(_read(kind, item, f"{name}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _shown(value: object) -> str:
    """Returns a value for an error, in one short line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
