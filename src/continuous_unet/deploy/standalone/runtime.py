"""Run exported diffusion models with NumPy and ONNX Runtime (or OpenVINO) alone: no torch, no diffusers.

`cunet export` puts this file next to the model, so that one folder is all that another machine needs:

    pip install numpy onnxruntime pillow
    python runtime.py --num 4 --seed 0 --output images.png

The same from Python:

    import runtime
    model = runtime.load("exported")
    images = runtime.generate(model, 4, steps=20, seed=0)      # (4, C, H, W) in [0, 1]
    runtime.save_images(images, "images.png")

It has `normal_noise` (a counter-based generator, with the same numbers as in the browser page), the samplers `ddim`,
`dpm++` and `euler` (equal to those of diffusers up to rounding), tables of steps that were searched for a model,
`generate`, `denoise` and `upscale`.

Arrays are `(B, C, H, W)`, float32, or `(B, C, F, H, W)` for models of clips. Samplers and networks work in [-1, 1];
images that go in and out are in [0, 1].
"""

import argparse
import contextlib
import functools
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

INFO_FILE = "export.json"
FORMAT_VERSION = 1
DTYPES = ("float32", "int64", "bool")
"""Types of the network's inputs."""
TASKS = ("generation", "denoise", "upscale")
METADATA_KEY = "continuous-unet"
"""The key of the text in a PNG that says how its image was made."""
MOST_IMAGES, MOST_THREADS, MOST_SOLVER_STEPS = 1_000_000, 1024, 1000
MOST_PIXELS, MOST_VALUES = 2**24, 2**28
"""Upper limit for the pixels of one image, or of a batch of fixed size."""
Info = dict[str, Any]
"""The contents of `export.json`."""
Network = Callable[..., np.ndarray]
"""`network(sample, timestep, …) -> prediction`; shapes `(B, C, H, W)`, a number or `(B,)`, and those of conditions."""


class ExportedModelError(ValueError):
    """Bad input: a missing or damaged export, or arguments that do not fit it. The message is one line for a person."""


def import_needed(module: str, package: str, purpose: str = "running this model") -> ModuleType:
    """Returns a module of another package.

    Raises:
        ExportedModelError: if the package is missing, with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ExportedModelError(f"{purpose} needs {package}: pip install {package}") from error


# --- noise ------------------------------------------------------------------------------------------------------------


def philox(key: tuple[int, int], counters: np.ndarray) -> np.ndarray:
    """Returns random words of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

    Args:
        key: two 32-bit words.
        counters: `(N, 4)`, uint32; equal counters give equal words, so nothing has to be drawn in order.

    Returns:
        `(N, 4)`, uint32.
    """
    c0, c1, c2, c3 = (counters[:, i].astype(np.uint64) for i in range(4))
    low = np.uint64(0xFFFFFFFF)
    k0, k1 = key
    for _ in range(10):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (second >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            second & low,
            (first >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            first & low,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def normal_noise(seed: int, number: int, shape: tuple[int, ...], stream: int = 0) -> np.ndarray:
    """Returns standard normal numbers, float32, that depend on `(seed, number, stream)` alone, not on the batch.

    Philox takes the seed as key and (block, image number, stream, 0) as counter. Each pair of words becomes two normal
    numbers by Box and Muller's formula, in float64. The browser page computes the same.

    Args:
        seed: 0 to 2**53 - 1, the whole numbers that JavaScript has too.
        number: the number of the image.
        shape: the shape of the result.
        stream: another number for further noise of the same image.

    Raises:
        ExportedModelError: for a seed out of range.
    """
    if not 0 <= seed < 2**53:
        raise ExportedModelError(f"seed {seed} must lie in 0 to {2**53 - 1}")
    count = math.prod(shape)
    blocks = np.zeros(((count + 3) // 4, 4), np.uint32)
    blocks[:, 0] = np.arange(len(blocks))
    blocks[:, 1], blocks[:, 2] = number, stream
    words = philox((seed & 0xFFFFFFFF, seed >> 32), blocks).reshape(-1, 2).astype(np.float64)
    uniform = (words + 0.5) / 2**32  # inside (0, 1): the logarithm is finite
    radius, angle = np.sqrt(-2 * np.log(uniform[:, 0])), 2 * np.pi * uniform[:, 1]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normal.reshape(-1)[:count].reshape(shape).astype(np.float32)


# --- samplers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One step of a table: an evaluation of the network, and the amounts of signal and noise before and after it.

    The prediction gives an image and unit noise; the next state is `next_signal image + next_noise noise`. Steps of
    second order add `correction (image - image of the row before)`.
    """

    timestep: float
    """The time of the evaluation, as the network is given it."""
    signal: float
    noise: float
    next_signal: float = 1.0
    next_noise: float = 0.0
    fresh: bool = False
    """Whether the next state gets new noise, in place of that which the prediction implies."""
    next_timestep: float = 0.0
    """The time after the step."""
    correction: float = 0.0
    """How much of the change of the image since the row before is added; 0 for steps of first order."""


Tables = dict[int, list[Row]]
"""Tables by their number of steps."""
Parts = tuple[np.ndarray, np.ndarray]
"""The image and the unit noise that a prediction implies."""


@dataclass(frozen=True)
class Schedule:
    """The variance-preserving process that a model was trained for: `schedule` in `export.json`."""

    alphas_cumprod: np.ndarray
    """The fraction of the signal's variance that is left at each timestep, `(T,)`, float32."""
    prediction_type: str = "epsilon"
    """What the network predicts: `epsilon` (the noise), `v_prediction`, or `sample` (the image)."""
    timestep_spacing: str = "trailing"
    steps_offset: int = 0
    clip_sample: bool = False
    """Whether DDIM keeps its estimates of the image within `clip_sample_range`."""
    clip_sample_range: float = 1.0
    final_alpha_cumprod: float = 1.0
    """The fraction of the signal's variance after DDIM's last step."""
    tables: Tables = field(default_factory=dict)
    """The model's own tables, which take precedence over evenly spread steps."""

    @property
    def samplers(self) -> "dict[str, Sampler]":
        """The samplers that fit; the first is the default."""
        return {"ddim": ddim, "dpm++": dpm_solver}

    @property
    def num_timesteps(self) -> int:
        """The number of timesteps of training."""
        return len(self.alphas_cumprod)

    @property
    def strongest(self) -> float:
        """The largest ratio of noise to signal, for images in [-1, 1]."""
        return float(self.sigmas()[-1])

    def sigmas(self) -> np.ndarray:
        """Returns the ratio of noise to signal at each timestep, `(T,)`, for images in [-1, 1]."""
        alphas = self.alphas_cumprod
        alphas = np.where(alphas == 0, np.float32(2**-24), alphas)  # pure noise would divide by zero; as diffusers does
        return np.sqrt((1 - alphas) / alphas)

    def levels(self, timestep: float) -> tuple[np.floating, np.floating]:
        """Returns the standard deviations of signal and noise at a timestep, between two by their ratio's logarithm."""
        whole = int(timestep)
        alpha = self.alphas_cumprod[whole]
        if timestep != whole:
            low, high = np.log(self.sigmas()[whole : whole + 2])
            alpha = 1 / (1 + np.exp(2 * (low + (timestep - whole) * (high - low))))
        return np.sqrt(alpha), np.sqrt(1 - alpha)

    def nearest_timestep(self, sigma: float) -> int:
        """Returns the timestep whose noise is nearest to a standard deviation, on a logarithmic scale."""
        return int(np.abs(np.log(self.sigmas()) - math.log(sigma)).argmin())

    def row(self, timestep: float, after: float | None) -> Row:
        """Returns the step from one timestep to another; to the image if `after` is None."""
        alpha = self.alphas_cumprod[int(timestep)]
        rest = np.float32(self.final_alpha_cumprod) if after is None else self.alphas_cumprod[int(after)]
        return Row(timestep, np.sqrt(alpha), np.sqrt(1 - alpha), np.sqrt(rest), np.sqrt(1 - rest), False, after or 0)

    def times_down(self, timestep: float, num_steps: int) -> list[float]:
        """Returns timesteps from this one down, evenly spread, for images that are already part signal."""
        count = min(num_steps, int(timestep) + 1)
        return np.unique(np.linspace(timestep, 0, count).round().astype(int))[::-1].tolist()

    def limited(self, image: np.ndarray) -> np.ndarray:
        """Returns an estimate of the image within the limits of the process."""
        return image.clip(-self.clip_sample_range, self.clip_sample_range) if self.clip_sample else image

    def image_and_noise(self, x: np.ndarray, prediction: np.ndarray, signal: float, noise: float) -> Parts:
        """Returns the image and the unit noise that a prediction for `x = signal image + noise unit_noise` implies."""
        if self.prediction_type == "epsilon":
            return (x - noise * prediction) / signal, prediction
        if self.prediction_type == "sample":
            return prediction, (x - signal * prediction) / noise
        return signal * x - noise * prediction, signal * prediction + noise * x


@dataclass(frozen=True)
class FlowSchedule:
    """Flow matching: `x = (1 - t) image + t noise`, the network predicts `noise - image` and is given `t` times T."""

    num_timesteps: int = 1000
    shift: float = 1.0
    """The factor of `t / (1 - t)` of evenly spread steps."""
    prediction_type: str = "flow_prediction"
    tables: Tables = field(default_factory=dict)
    """The model's own tables, which take precedence over evenly spread steps."""
    strongest = math.inf

    def levels(self, timestep: float) -> tuple[float, float]:
        """Returns the standard deviations of signal and noise at a timestep."""
        return 1 - timestep / self.num_timesteps, timestep / self.num_timesteps

    @property
    def samplers(self) -> "dict[str, Sampler]":
        """The samplers that fit."""
        return {"euler": euler}

    def nearest_timestep(self, sigma: float) -> float:
        """Returns the timestep at which the ratio of noise to signal is `sigma`."""
        return self.num_timesteps * sigma / (1 + sigma)

    def row(self, timestep: float, after: float | None) -> Row:
        """Returns the step from one timestep to another; to the image if `after` is None."""
        t, rest = (np.float32(time / self.num_timesteps) for time in (timestep, after or 0.0))
        return Row(timestep, 1 - t, t, 1 - rest, rest, False, after or 0.0)

    def times_down(self, timestep: float, num_steps: int) -> list[float]:
        """Returns timesteps from this one down, evenly spread, for images that are already part signal."""
        return [timestep * (1 - k / num_steps) for k in range(num_steps)]

    def limited(self, image: np.ndarray) -> np.ndarray:
        """Returns the image as it is."""
        return image

    def image_and_noise(self, x: np.ndarray, prediction: np.ndarray, signal: float, noise: float) -> Parts:
        """Returns the image and the unit noise that a prediction for `x = signal image + noise unit_noise` implies."""
        return x - noise * prediction, x + signal * prediction


AnySchedule = Schedule | FlowSchedule
PIECE = 32
"""The number of images that a codec encodes or decodes at a time."""
FRESH_STREAM = 1024
"""The stream of `normal_noise` for the new noise of a table's first step; further steps take the streams after it."""
Fresh = Callable[[int], np.ndarray]
"""`fresh(k) -> noise` for the step number `k` of a table, of the shape of the images."""
Step = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`step(x, prediction) -> next x`."""
Sampler = Callable[[Any, int], Iterator[tuple[float, Step]]]


def table(schedule: AnySchedule, rows: list[Row], fresh: Fresh | None = None) -> Iterator[tuple[float, Step]]:
    """Yields the timesteps of a table, each with its step.

    Raises:
        ExportedModelError: if a row needs new noise and `fresh` is None.
    """
    images: list[np.ndarray] = []
    for number, row in enumerate(rows):
        if row.fresh and fresh is None:
            raise ExportedModelError("this table of steps needs new noise; give `fresh`")
        noise = fresh(number) if row.fresh and fresh is not None else None
        yield row.timestep, _table_step(schedule, row, noise, images)


def _table_step(
    schedule: AnySchedule, row: Row, fresh_noise: np.ndarray | None = None, images: list[np.ndarray] | None = None
) -> Step:
    """Returns a step of a table. `images` holds the image of the row before, for steps of second order."""

    def step(x: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        image, noise = schedule.image_and_noise(x, prediction, row.signal, row.noise)
        image = schedule.limited(image)
        reached = row.next_signal * image + row.next_noise * (noise if fresh_noise is None else fresh_noise)
        if images and row.correction:
            reached = reached + row.correction * (image - images[0])
        if images is not None:
            images[:] = [image]
        return reached

    return step


def _timesteps(schedule: Schedule, num_steps: int, unused: int = 0) -> np.ndarray:
    """Returns the timesteps of a sampler, first to last. The spacing is that of `unused` more, which are left out."""
    total, count = len(schedule.alphas_cumprod), num_steps + unused
    if schedule.timestep_spacing == "trailing":
        return np.arange(total, 0, -total / num_steps).round().astype(int) - 1
    if schedule.timestep_spacing == "leading":
        return (np.arange(count)[::-1] * (total // count) + schedule.steps_offset)[:num_steps]
    return np.linspace(0, total - 1, count).round()[::-1].astype(int)[:num_steps]


def ddim(schedule: Schedule, num_steps: int) -> Iterator[tuple[float, Step]]:
    """Yields the timesteps of DDIM without noise (Song et al., arXiv 2010.02502), each with its step."""
    gap = schedule.num_timesteps // num_steps
    for timestep in _timesteps(schedule, num_steps):
        before = timestep - gap
        yield int(timestep), _table_step(schedule, schedule.row(int(timestep), before if before >= 0 else None))


def euler(schedule: FlowSchedule, num_steps: int) -> Iterator[tuple[float, Step]]:
    """Yields the timesteps of Euler's method for flow matching, each with its step."""
    t = 1 - np.arange(num_steps) / num_steps
    times = (schedule.shift * t / (1 + (schedule.shift - 1) * t) * schedule.num_timesteps).tolist()
    yield from table(schedule, [schedule.row(*pair) for pair in zip(times, [*times[1:], None])])


def dpm_solver(schedule: Schedule, num_steps: int) -> Iterator[tuple[float, Step]]:
    """Yields the timesteps of DPM-Solver++(2M) (Lu et al., arXiv 2211.01095), each with its step.

    The first and the last step are of first order, as in diffusers.
    """
    timesteps = _timesteps(schedule, num_steps, unused=1)
    sigmas = np.append(schedule.sigmas()[timesteps], 0).astype(np.float32)
    signals = (1 / np.sqrt(sigmas**2 + 1)).astype(np.float32)
    noises = sigmas * signals
    with np.errstate(divide="ignore"):
        logs = np.log(signals) - np.log(noises)  # half the logarithm of the signal-to-noise ratio; infinite at the end
    images: list[np.ndarray] = []

    def make_step(i: int) -> Step:
        def step(x: np.ndarray, prediction: np.ndarray) -> np.ndarray:
            image, _ = schedule.image_and_noise(x, prediction, signals[i], noises[i])
            images.append(image)
            h = logs[i + 1] - logs[i]
            weight = signals[i + 1] * (np.exp(-h) - 1)
            result = noises[i + 1] / noises[i] * x - weight * image
            if len(images) == 2 and i < len(timesteps) - 1:
                ratio = (logs[i] - logs[i - 1]) / h
                result = result - np.float32(0.5) * weight * (image - images.pop(0)) / ratio
            return result

        return step

    for i, timestep in enumerate(timesteps):
        yield int(timestep), make_step(i)


SAMPLERS = ("ddim", "dpm++", "euler", "own")
"""The names of all samplers: `euler` is for flow matching, and `own` for numbers of steps with a table."""


def default_sampler(schedule: AnySchedule, num_steps: int) -> str:
    """Returns the sampler that is taken if none is named: the model's table for this number of steps if it has one."""
    return "own" if num_steps in schedule.tables else next(iter(schedule.samplers))


def number_of_steps(model: "ExportedModel", steps: int | None = None, sampler: str | None = None) -> int:
    """Returns the number of sampling steps: 50 if None is given, or the most that a distilled model has.

    Raises:
        ExportedModelError: for a number or a sampler that a distilled model does not have.
    """
    if not model.only_tables:
        return 50 if steps is None else steps
    known = sorted(model.schedule.tables)
    if sampler not in (None, "own"):
        raise ExportedModelError(
            f"sampler {sampler}: this model was distilled, and has a sampler of its own; leave it out"
        )
    if steps is not None and steps not in known:
        numbers = ", ".join(map(str, known))
        raise ExportedModelError(f"this model was distilled for {numbers} sampling steps, not {steps}")
    return known[-1] if steps is None else steps


def steps_of(
    schedule: AnySchedule, num_steps: int, sampler: str | None = None, fresh: Fresh | None = None
) -> Iterator[tuple[float, Step]]:
    """Returns an iterator of a timestep and a step for each evaluation of the network.

    Args:
        schedule: that of the model.
        num_steps: the number of sampling steps.
        sampler: one of `SAMPLERS`. If None, the model's table for this number of steps, or else the default sampler.
        fresh: the source of new noise, for tables that need it.

    Raises:
        ExportedModelError: for a sampler or a number of steps that does not fit the model.
    """
    if not 1 <= num_steps <= schedule.num_timesteps:
        raise ExportedModelError(f"{num_steps} sampling steps: expected 1 to {schedule.num_timesteps}")
    if sampler == "own" and num_steps not in schedule.tables:
        known = ", ".join(map(str, sorted(schedule.tables))) or "none"
        raise ExportedModelError(f"this model has no schedule of its own of {num_steps} steps (it has: {known})")
    name = sampler or default_sampler(schedule, num_steps)
    if name == "own":
        return table(schedule, schedule.tables[num_steps], fresh)
    if name not in schedule.samplers:
        choices = ", ".join(schedule.samplers)
        raise ExportedModelError(f"sampler {name!r} does not fit this model; expected one of {choices}")
    return schedule.samplers[name](schedule, num_steps)


# --- models -----------------------------------------------------------------------------------------------------------


class ExportedModel:
    """A network and its description in `export.json`.

    Call it with arrays in [-1, 1]: `model(sample, timestep, class_labels)`. Further inputs that `export.json` lists are
    given by name. A batch larger than the exported one is divided.
    """

    def __init__(self, network: Network, info: Info) -> None:
        self.network = network
        self.info = info
        self.task: str = info["task"]
        """What the model was trained for: `generation`, `denoise` or `upscale`."""
        self.options: Info = dict(info.get("options", {}))
        """Settings of the task: `sigma_conditioned` for denoising; `scale` and `residual_scale` for upscaling."""
        self._schedule = None if info["schedule"] is None else read_schedule(info)
        self.only_tables: bool = info.get("only_tables") is True
        """Whether the model was distilled, and samples from its own tables alone."""
        self.inputs: list[Info] = info["inputs"]
        """Name, type and shape of each input of the network, and the default of those that have one."""
        shape = self.inputs[0]["shape"]
        self.batch_size: int | None = shape[0] if isinstance(shape[0], int) else None
        self.largest_batch = int(self.batch_size or info.get("largest_batch", 2**31))
        self.shape = tuple(info["image_shape"])
        """`(C, H, W)` of what the network takes: images, or latents; `(C, F, H, W)` for clips."""
        self.any_size = isinstance(shape[2], str)
        self.multiple_of = int(info["size_multiple_of"])
        self.num_classes: int | None = info["num_classes"]
        """Number of classes, with the one that stands for any class; None for a model without classes."""
        conditions: Info = info.get("conditions", {})
        self.classes: list[str] | None = conditions.get("classes")
        """The names of the classes by number, if they are known."""
        self.null_class: int | None = conditions.get("null_class")
        """The number of the class that stands for any class, if the model knows it."""
        self.guidance_scale = float(conditions.get("guidance_scale", 1.0))
        """The guidance scale if none is given."""
        self.needs_prompt = bool(conditions.get("needs_prompt", False))
        """Whether the model was trained without the empty prompt, which stands for any image."""
        self.encoder: TextEncoder | None = None
        """What encodes prompts; only models with text have it."""
        codec: Info = info.get("codec") or {"channels": self.shape[0], "factor": 1}
        self.factor: int = codec["factor"]
        """How many times smaller the sides of latents are than those of the images; 1 for models of pixels."""
        self.image_shape = (codec["channels"], *(side * self.factor for side in self.shape[1:]))
        """`(C, H, W)` of the images that are made, or `(C, F, H, W)` of the clips."""
        self.codec_encoder: Network | None = None
        """Makes latents of images; only models of latents have it."""
        self.codec_decoder: Network | None = None
        """Makes images of latents."""

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Returns what the network works on: the latents of images in [-1, 1], or the images themselves."""
        return images if self.codec_encoder is None else _in_pieces(self.codec_encoder, images)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Returns the images, about in [-1, 1], of what the network made."""
        return latents if self.codec_decoder is None else _in_pieces(self.codec_decoder, latents)

    @property
    def makes_clips(self) -> bool:
        """Whether the model makes clips."""
        return len(self.shape) == 4

    @property
    def takes_text(self) -> bool:
        """Whether the model is given a text."""
        return any(about["name"] == "encoder_hidden_states" for about in self.inputs)

    @property
    def num_own_classes(self) -> int:
        """Number of classes that images can show, without the one that stands for any class."""
        return (self.num_classes or 0) - (self.null_class is not None)

    @property
    def takes_solver_steps(self) -> bool:
        """Whether the network is told the number of solver steps."""
        return any(about["name"] == "num_solver_steps" for about in self.inputs)

    @property
    def can_be_guided(self) -> bool:
        """Whether the model knows images without a condition, which guidance leads away from."""
        return self.null_class is not None or (self.takes_text and not self.needs_prompt)

    @property
    def schedule(self) -> AnySchedule:
        """The diffusion process; models that were trained to predict the clean image have none."""
        if self._schedule is None:
            raise ExportedModelError(f"this model was trained to {self.task}; it has no noise schedule to sample with")
        return self._schedule

    def __call__(
        self, sample: np.ndarray, timestep: ArrayLike, class_labels: ArrayLike | None = None, **conditions: ArrayLike
    ) -> np.ndarray:
        """Returns predictions `(B, C_out, H, W)` for images `(B, C, H, W)`.

        Args:
            sample: the images.
            timestep: one for all, or `(B,)`; and so on for every input that is one number for each image.
            class_labels: classes, for class-conditional models.
            conditions: further inputs by name, for one image or for each.
        """
        self.check_shape(sample.shape)
        count = len(sample)
        if class_labels is not None and self.num_classes is None:
            raise ExportedModelError("a class was given, but this model was trained without classes; leave it out")
        if self.num_classes is not None:
            class_labels = self.null_class if class_labels is None else class_labels
            class_labels = _checked_labels(class_labels, count, self.num_classes - 1)
        given: Info = {"sample": sample, "timestep": timestep, "class_labels": class_labels, **conditions}
        for about in self.inputs:
            if given.get(about["name"]) is None:
                default = about.get("default")
                given[about["name"]] = given[default] if isinstance(default, str) else default
        inputs = [(_as_input(about, given[about["name"]], count), is_per_image(about)) for about in self.inputs]
        unknown = sorted(set(conditions) - {about["name"] for about in self.inputs})
        if unknown:
            raise ExportedModelError(f"this model has no input {unknown[0]!r}; leave it out")
        pieces = []
        for start in range(0, count, self.largest_batch):
            end = start + self.largest_batch
            pieces.append(self._piece([a[start:end] if each else a for a, each in inputs], min(end, count) - start))
        return np.concatenate(pieces)

    def _piece(self, inputs: list[np.ndarray], count: int) -> np.ndarray:
        if self.batch_size is not None:  # the last piece may be short of images
            missing = self.batch_size - count
            inputs = [
                np.concatenate([a, np.repeat(a[-1:], missing, axis=0)]) if is_per_image(about) else a
                for a, about in zip(inputs, self.inputs)
            ]
        return self.network(*(np.asarray(a, order="C") for a in inputs))[:count]

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ExportedModelError for a shape of images that the network does not accept."""
        channels, *frames, height, width = self.shape
        if len(shape) != 1 + len(self.shape) or shape[1] != channels or [*shape[2:-2]] != frames:
            sides = "".join(f"{number}, " for number in frames)
            what = "clips" if self.makes_clips else "images"
            raise ExportedModelError(f"the {what} have shape {shape}; this model takes (B, {channels}, {sides}H, W)")
        shape = shape[-4:]
        if not self.any_size and shape[2:] != (height, width):
            raise ExportedModelError(
                f"the images are {shape[2]}x{shape[3]}, and this model was exported for {height}x{width} only; "
                "resize them, or export with --any-size"
            )
        if shape[2] % self.multiple_of or shape[3] % self.multiple_of:
            raise ExportedModelError(
                f"the images are {shape[2]}x{shape[3]}; this model needs multiples of {self.multiple_of}"
            )


def _in_pieces(network: Network, values: np.ndarray) -> np.ndarray:
    """Evaluates a network of one input for some images at a time."""
    pieces = (values[start : start + PIECE] for start in range(0, len(values), PIECE))
    return np.concatenate([network(np.ascontiguousarray(piece, dtype=np.float32)) for piece in pieces])


def is_per_image(about: Info) -> bool:
    """Returns whether an input of the network has a value for each image; others have one for the whole batch."""
    return len(about["shape"]) > 0


def _as_input(about: Info, value: ArrayLike | None, count: int) -> np.ndarray:
    """Returns the value of an input for a number of images, of the type and shape that `export.json` lists."""
    if value is None:
        raise ExportedModelError(f"this model needs {about['name']}, and none was given")
    array = np.asarray(value, about["dtype"])
    sides = about["shape"][1:]
    found = array.shape[max(0, array.ndim - len(sides)) :] if sides else ()
    sides = [size if isinstance(side, str) else side for side, size in zip(sides, found)]
    shape = (count, *sides) if is_per_image(about) else ()
    try:
        return np.broadcast_to(array, shape)
    except ValueError as error:
        wanted = f"{tuple(about['shape'][1:])}, or this for each of the {count} images"
        raise ExportedModelError(f"{about['name']} has shape {array.shape}; expected {wanted}") from error


def _checked_labels(labels: ArrayLike | None, count: int, last: int) -> np.ndarray:
    if labels is None:
        raise ExportedModelError(f"this model is class-conditional: give a class, 0 to {last}")
    array = np.asarray(labels, np.int64)
    if array.shape not in ((), (count,)) or array.min() < 0 or array.max() > last:
        raise ExportedModelError(f"classes must be one or {count} numbers in 0 to {last}, got {labels}")
    return np.broadcast_to(array, (count,))


def read_schedule(info: Info) -> AnySchedule:
    """Returns the schedule in `export.json`; raises ExportedModelError if it is damaged."""
    values = dict(info["schedule"])
    tables = {len(rows): [Row(**row) for row in rows] for rows in values.pop("tables", [])}
    if not all(_is_row(row) for rows in tables.values() for row in rows) or 0 in tables:
        raise ExportedModelError("the export has an invalid table of steps; it is damaged: export again")
    process = values.pop("process", "variance-preserving")
    if process == "flow":
        flow = FlowSchedule(
            values.pop("num_train_timesteps"), values.pop("shift"), values.pop("prediction_type"), tables
        )
        sound = _is_whole(flow.num_timesteps, 1) and 0 < flow.shift < math.inf and not values
        if not sound or flow.prediction_type != "flow_prediction":
            raise ExportedModelError("the export has no usable noise schedule; it is damaged: export again")
        return flow
    if process != "variance-preserving":
        raise ExportedModelError(f"the noise process {process!r} of the export is unknown; export again")
    alphas = np.array(values.pop("alphas_cumprod"), np.float32)
    schedule = Schedule(alphas, **values, tables=tables)
    if schedule.prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise ExportedModelError(
            f"the prediction_type {schedule.prediction_type!r} of the export is unknown; export again"
        )
    if schedule.timestep_spacing not in ("leading", "linspace", "trailing"):
        raise ExportedModelError(
            f"the timestep_spacing {schedule.timestep_spacing!r} of the export is unknown; export again"
        )
    sound = (
        alphas.ndim == 1
        and len(alphas) > 0
        and bool(((alphas >= 0) & (alphas <= 1)).all())
        and _is_whole(schedule.steps_offset, 0, len(alphas))
        and all(isinstance(x, (int, float)) for x in (schedule.clip_sample_range, schedule.final_alpha_cumprod))
    )
    if not sound:
        raise ExportedModelError("the export has no usable noise schedule; it is damaged: export again")
    return schedule


def _is_row(row: Row) -> bool:
    numbers = (row.timestep, row.signal, row.noise, row.next_signal, row.next_noise, row.next_timestep, row.correction)
    return all(isinstance(x, (int, float)) and 0 <= x < math.inf for x in numbers) and isinstance(row.fresh, bool)


def _is_whole(value: object, least: int, most: int = 2**31) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_shape(shape: object, batch: object) -> bool:
    """Returns whether something is the shape of an input: that of one number, or one that begins with the batch."""
    sides = shape[1:] if isinstance(shape, list) and shape[:1] == [batch] else [] if shape == [] else [0]
    return len(sides) < 5 and all(isinstance(side, str) or _is_whole(side, 1) for side in sides)


def _is_default(value: object, names: list[str]) -> bool:
    return value in names if isinstance(value, str) else value is None or _is_finite(value)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_conditions(about: Info, num_classes: int | None, files: Info) -> bool:
    """Returns whether these are conditions of a model with that many classes, in an export of those files."""
    null, text, classes = about.get("null_class"), about.get("text"), about.get("classes")
    named = num_classes - (null is not None) if isinstance(num_classes, int) else 0
    return (
        (null is None or (num_classes is not None and null == num_classes - 1 and not isinstance(null, bool)))
        and (
            classes is None
            or (isinstance(classes, list) and len(classes) == named and all(isinstance(name, str) for name in classes))
        )
        and _is_finite(about.get("guidance_scale", 1.0))
        and (
            text is None
            or (text["network"] in files and text["vocabulary"] in files and _is_whole(text["max_length"], 2, 65536))
        )
    )


def _are_depths(about: Info) -> bool:
    """Returns whether these are numbers of solver steps by noise level, or none."""
    if not about:
        return about == {}
    lists = (about["steps"], about["depths"])
    numbers = all(_is_whole(number, 1, MOST_SOLVER_STEPS) for each in lists for number in each)
    return all(isinstance(each, list) and each for each in lists) and numbers and _is_whole(about["timesteps"], 1)


def _is_codec(about: Info, files: Info) -> bool:
    """Returns whether this is the codec of an export of those files."""
    return (
        all(about[part] in files for part in ("encoder", "decoder"))
        and _is_whole(about["channels"], 1, 4)
        and _is_whole(about["factor"], 1, 1024)
    )


def check_info(info: Info) -> None:
    """Raises ExportedModelError, by name, for a value in `export.json` that no export has."""
    files, shape, batch = info["files"], info["image_shape"], info["inputs"][0]["shape"][0]
    task, options = info["task"], info.get("options", {})
    names = [entry["name"] for entry in info["inputs"]]
    sound = {
        "format": isinstance(info["format"], str),
        "files": isinstance(files, dict) and all(isinstance(facts.get("sha256"), str) for facts in files.values()),
        "network": info["network"] in files,
        "image_shape": isinstance(shape, list)
        and len(shape) in (3, 4)
        and all(_is_whole(size, 1) for size in shape)
        and math.prod(shape[1:]) <= MOST_PIXELS
        and math.prod(shape) <= MOST_VALUES,
        "size_multiple_of": _is_whole(info["size_multiple_of"], 1),
        "num_classes": info["num_classes"] is None or _is_whole(info["num_classes"], 1),
        "inputs": (isinstance(batch, str) or _is_whole(batch, 1))
        and names[:2] == ["sample", "timestep"]
        and ("class_labels" in names) == (info["num_classes"] is not None)
        and all(entry["dtype"] in DTYPES and _is_shape(entry["shape"], batch) for entry in info["inputs"])
        and all(_is_default(entry.get("default"), names) for entry in info["inputs"]),
        "largest_batch": _is_whole(info.get("largest_batch", 1), 1),
        "task": task in TASKS,
        "options": task != "upscale"
        or (_is_whole(options["scale"], 1, 16) and 0 < float(options["residual_scale"]) < math.inf),
        "schedule": info["schedule"] is not None or task == "denoise",
        "solver_steps": _are_depths(info.get("solver_steps", {})),
        "conditions": _are_conditions(info.get("conditions", {}), info["num_classes"], files),
        "codec": "codec" not in info or (task == "generation" and len(shape) == 3 and _is_codec(info["codec"], files)),
    }
    for name, right in sound.items():
        if not right:
            raise ExportedModelError(
                f"{name} is {json.dumps(info.get(name))[:80]}, which no export has; it is damaged: export again"
            )


def read_info(folder: str | os.PathLike) -> Info:
    """Reads and checks the `export.json` of a folder, and compares the files that it names with their checksums.

    Raises:
        ExportedModelError: if the export is missing or damaged.
    """
    path = Path(folder) / INFO_FILE
    if not path.is_file():
        raise ExportedModelError(
            f"{folder} holds no exported model ({INFO_FILE} is missing); make one with `cunet export`"
        )
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        if info["format_version"] != FORMAT_VERSION:
            raise ExportedModelError(f"it is of format version {info['format_version']}; expected {FORMAT_VERSION}")
        if info["task"] == "plan":
            raise ExportedModelError("this is a planner, which makes plans and no images; use policy.py in its folder")
        check_info(info)
        ExportedModel(lambda *inputs: inputs[0], info)
    except ExportedModelError as error:
        raise ExportedModelError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ExportedModelError(f"{path} cannot be read ({error!r}); the export is damaged: export again") from error
    for name, facts in info["files"].items():
        if Path(name).name != name:
            raise ExportedModelError(f"{path} names the file {name!r} outside its folder; it is not an export of ours")
        file = path.parent / name
        if not file.is_file():
            raise ExportedModelError(f"{file} is missing; the export is damaged: export again")
        if hashlib.sha256(file.read_bytes()).hexdigest() != facts["sha256"]:
            raise ExportedModelError(f"{file} is not as it was exported (its checksum differs): export again")
    return info


def open_onnx(path: Path, threads: int | None, names: Sequence[str]) -> Network:
    """Opens a network in ONNX Runtime, on the CPU, with inputs of these names in this order."""
    onnxruntime = import_needed("onnxruntime", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings are about the optimiser's choices
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda *inputs: session.run(None, dict(zip(names, inputs)))[0]


@functools.cache
def openvino_core() -> Any:
    """Returns OpenVINO's `Core`, the same one for the life of the process.

    Each further one moves the stack on which signals are handled. When two end in another order than the reverse, that
    stack is one that was freed, and the next signal ends the process (seen with OpenVINO 2026 and Python 3.11).
    """
    return import_needed("openvino", "openvino").Core()


def open_openvino(path: Path, threads: int | None, names: Sequence[str]) -> Network:
    """Opens a network in OpenVINO, on the CPU; it computes in the precision that it was exported in."""
    settings: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16 where the processor has it
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    request = openvino_core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda *inputs: request.infer(dict(zip(names, inputs)))[0].copy()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


Opener = Callable[[Path, int | None, Sequence[str]], Network]
DEFAULT_OUTPUTS = {".png": "images.png", ".gif": "clips.gif"}
"""Where images and clips go if nothing else is asked for, by their endings."""
OPENERS: dict[str, Opener] = {"onnx": open_onnx, "openvino": open_openvino}
"""Formats that need no torch."""


def load(folder: str | os.PathLike, threads: int | None = None, more: dict[str, Opener] | None = None) -> ExportedModel:
    """Loads an exported model, and evaluates it once to check that `export.json` describes it.

    Args:
        folder: what `cunet export` wrote.
        threads: the number of threads of one evaluation; one for each core if None.
        more: openers of formats that are not in `OPENERS`.

    Raises:
        ExportedModelError: if the export is missing or damaged, or the package that runs it is missing.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ExportedModelError(f"{threads} threads: expected 1 to {MOST_THREADS}")
    info = read_info(folder)
    openers = {**OPENERS, **(more or {})}
    if info["format"] not in openers:
        raise ExportedModelError(
            f"the format {info['format']!r} does not run here ({', '.join(openers)} do); export to one of these"
        )
    network = Path(folder) / info["network"]
    try:
        opened = openers[info["format"]](network, threads, [entry["name"] for entry in info["inputs"]])
    except ExportedModelError:
        raise
    except Exception as error:  # every runtime has classes of its own
        raise ExportedModelError(f"{network} cannot be loaded ({_first_line(error)})") from error
    model = ExportedModel(opened, info)
    text = info.get("conditions", {}).get("text")
    if text is not None:
        model.encoder = _open_encoder(Path(folder), text, openers[info["format"]])
    if "codec" in info:
        _open_codec(model, Path(folder), openers[info["format"]], threads)
    _check_network(model, network)
    return model


def _open_encoder(folder: Path, text: Info, opener: Opener) -> "TextEncoder":
    """Opens the text encoder of an export, and tries it."""
    network, length = folder / text["network"], text["max_length"]
    try:
        vocabulary = json.loads((folder / text["vocabulary"]).read_text(encoding="utf-8"))
        if not (isinstance(vocabulary, list) and all(isinstance(token, str) for token in vocabulary)):
            raise ValueError(f"{text['vocabulary']} is not a list of tokens")
        encoder = TextEncoder(opener(network, None, ["input_ids"]), vocabulary, length)
        encoder("")
    except ExportedModelError:
        raise
    except Exception as error:  # every runtime has classes of its own
        raise ExportedModelError(f"{network} cannot be loaded ({_first_line(error)})") from error
    return encoder


def _open_codec(model: ExportedModel, folder: Path, opener: Opener, threads: int | None) -> None:
    """Opens the codec of an export, and tries it."""
    about = model.info["codec"]
    latents = np.zeros((1, *model.shape), np.float32)
    try:
        model.codec_decoder = opener(folder / about["decoder"], threads, ["latents"])
        model.codec_encoder = opener(folder / about["encoder"], threads, ["images"])
        images = model.decode(latents)
        shapes = images.shape[1:], model.encode(images).shape[1:]
    except ExportedModelError:
        raise
    except Exception as error:  # every runtime has classes of its own
        raise ExportedModelError(f"the codec in {folder} cannot be loaded ({_first_line(error)})") from error
    if shapes != (model.image_shape, model.shape):
        raise ExportedModelError(f"the codec in {folder} is not the one in {INFO_FILE}: export again")


def text_inputs(model: ExportedModel) -> dict[str, Info]:
    """Returns the inputs of a network that stand for a text, by name."""
    return {about["name"]: about for about in model.inputs if about["name"].startswith("encoder_")}


def _check_network(model: ExportedModel, path: Path) -> None:
    """Raises ExportedModelError, after one evaluation, for a network that is not the one in `export.json`."""
    sample = np.zeros((1, *model.shape), np.float32)
    try:
        expected = [model.info["outputs"][0]["shape"][1], *model.shape[1:]]
        free = {name: np.zeros(about["shape"][1:]) for name, about in text_inputs(model).items()}
        found = list(model(sample, 0, None if model.num_classes is None else 0, **free).shape)[1:]
        problem = "" if found == expected else f"it gives images of {found}, not {expected}"
    except MemoryError:
        raise
    except Exception as error:
        problem = " ".join(str(error).split())[:300] or type(error).__name__
    if problem:
        raise ExportedModelError(f"{path} is not the network that {INFO_FILE} describes ({problem}): export again")


# --- conditions -------------------------------------------------------------------------------------------------------

Prompt = str | tuple[np.ndarray, np.ndarray]
"""A text, or one that was encoded elsewhere: states `(L, D)`, and a mask `(L,)` that is False at padding."""
PADDING, START, END, UNKNOWN = range(4)
"""The first tokens of every vocabulary."""
_WORDS = re.compile(r"[!-/:-@\[-`{-~]|[^ \t\n\r\f\v\u00a0\u3000!-/:-@\[-`{-~]+")
"""Words are separated by spaces; a mark of punctuation of ASCII is a word of its own."""


class TextEncoder:
    """The text encoder of a model: a vocabulary of subwords, and a network.

    Args:
        network: `network(tokens) -> states, mask`, for int64 `(1, L)`.
        vocabulary: tokens by number.
        length: number of tokens of every text, padded or cut.
    """

    def __init__(self, network: Callable[..., Any], vocabulary: list[str], length: int) -> None:
        self.network = network
        self.length = length
        self._number = {token: number for number, token in enumerate(vocabulary)}

    def tokens(self, text: str) -> list[int]:
        """Returns start, tokens, end and padding of a text: byte-pair encoding of its words in lower case."""
        inner = [number for word in _WORDS.findall(text.lower()) for number in self._of_word(word + " ")]
        kept = [START, *inner[: self.length - 2], END]
        return kept + [PADDING] * (self.length - len(kept))

    def _of_word(self, word: str) -> list[int]:
        parts = list(word)
        while len(parts) > 1:  # of all neighbours that make a token, those join first whose token was learned first
            joined = [one + other for one, other in pairwise(parts)]
            best = min(joined, key=lambda token: self._number.get(token, len(self._number)))
            if best not in self._number:
                break
            at = joined.index(best)
            parts[at : at + 2] = [best]
        return [self._number.get(part, UNKNOWN) for part in parts]

    def __call__(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the states `(L, D)` of a text, and a mask `(L,)` that is False at padding."""
        tokens = np.array([self.tokens(text)], np.int64)
        return self.network(tokens)[0], tokens[0] != PADDING


def class_number(model: ExportedModel, label: int | str | None) -> int | None:
    """Returns the number of a class that is given by name or number; None and `"any"` stand for any class.

    Raises:
        ExportedModelError: for a name that is unknown.
    """
    if label is None:
        return model.null_class
    if model.num_classes is None:
        raise ExportedModelError("a class was given, but this model was trained without classes; leave it out")
    if isinstance(label, str):
        names = model.classes or []
        if label in names:
            return names.index(label)
        if label == "any" and model.null_class is not None:
            return model.null_class
        if not label.isdecimal():
            known = ", ".join(names[:20]) or f"0 to {model.num_classes - 1}"
            raise ExportedModelError(f"the class {label!r} is unknown; expected one of {known}")
    return int(label)


def shows_all_classes(model: ExportedModel, class_label: object, prompt: object, image: object) -> bool:
    """Returns whether the images show all classes in turn: the model has classes, and nothing is asked for."""
    return model.num_own_classes > 0 and class_label is None and prompt is None and image is None


def conditions_of(model: ExportedModel, class_label: int | str | None = None, prompt: Prompt | None = None) -> Info:
    """Returns what the network is asked for, as further arguments of `model(sample, timestep, …)`.

    Raises:
        ExportedModelError: for an unknown class, or a prompt that the model cannot be given.
    """
    label, conditions = class_number(model, class_label), {}
    if model.num_classes is not None:
        conditions["class_labels"] = label
    if not model.takes_text:
        if prompt is not None:
            raise ExportedModelError("a prompt was given, but this model was trained without text; leave it out")
        return conditions
    if not isinstance(prompt, tuple):
        if model.encoder is None:
            raise ExportedModelError("this export has no text encoder: its prompts are encoded elsewhere, as arrays")
        if prompt is None and model.needs_prompt:
            raise ExportedModelError("this model was trained with captions, none of which was dropped: give a prompt")
        prompt = model.encoder(prompt or "")
    return {**conditions, "encoder_hidden_states": prompt[0], "encoder_attention_mask": prompt[1]}


def guided(
    model: ExportedModel,
    asked: Info,
    free: Info | None = None,
    scale: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Network:
    """Returns a network that has its conditions, and is led away from the prediction without them.

    Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): `prediction = free + scale (asked - free)`, with both
    evaluations in one batch.

    Args:
        model: what `load` returns.
        asked: what `conditions_of` gives for the request.
        free: the same without a request, or for what is not wanted.
        scale: 1 is one evaluation, without guidance.
        interval: the part of the noise range, 0 (no noise) to 1 (only noise), in which there is guidance.

    Raises:
        ExportedModelError: for a scale or an interval out of range, or a model that cannot be guided.
    """
    if not (math.isfinite(scale) and 0 <= scale <= 1000):
        raise ExportedModelError(f"guidance {scale:g} must be 0 to 1000; 1 is without guidance")
    if not 0 <= interval[0] < interval[1] <= 1:
        raise ExportedModelError(f"guidance interval {interval[0]:g}:{interval[1]:g} must lie in 0:1, in this order")
    if scale != 1 and (free is None or not model.can_be_guided):
        raise ExportedModelError("this model was trained without dropping its condition, and cannot be guided")

    def network(x: np.ndarray, timestep: float, class_labels: None = None, **more: ArrayLike) -> np.ndarray:
        share = min(1.0, timestep / max(1, model.schedule.num_timesteps - 1))
        if scale == 1 or free is None or not interval[0] <= share <= interval[1]:
            return model(x, timestep, **asked, **more)
        count = len(x)
        both = {name: np.concatenate([_for_each(part[name], name, count) for part in (free, asked)]) for name in asked}
        without, wanted = np.split(model(np.concatenate([x, x]), timestep, **both, **more), 2)
        return without + np.float32(scale) * (wanted - without)

    return network


def with_depth(model: ExportedModel, network: Network, solver_steps: int | str | None) -> Network:
    """Returns a network that is told the number of solver steps in each block; as it is if None is given.

    Args:
        model: what `load` returns.
        network: what is evaluated, and hands further inputs to the model.
        solver_steps: a number, or `"auto"` for the numbers by noise level that are saved with the model.

    Raises:
        ExportedModelError: for a network with a fixed number, a number out of range, or a model without a table.
    """
    if solver_steps is None:
        return network
    if not model.takes_solver_steps:
        raise ExportedModelError(
            "this network has a fixed number of solver steps; export it with --solver-steps any, or leave them out"
        )
    about = model.info.get("solver_steps", {})
    table, span = about.get("steps"), about.get("timesteps", 1)
    if solver_steps == "auto":
        if not table:
            raise ExportedModelError("this model has no table of solver steps by noise level; give a number")
    elif not _is_whole(solver_steps, 1, MOST_SOLVER_STEPS):
        raise ExportedModelError(f"solver steps {solver_steps!r} must be 1 to {MOST_SOLVER_STEPS}, or auto")

    def told(x: np.ndarray, timestep: float, class_labels: None = None, **more: ArrayLike) -> np.ndarray:
        band = min(max(int(timestep * len(table or [0]) / span), 0), len(table or [0]) - 1)
        number = table[band] if solver_steps == "auto" else solver_steps
        return network(x, timestep, class_labels, num_solver_steps=number, **more)

    return told


def _for_each(value: ArrayLike, name: str, count: int) -> np.ndarray:
    """Returns a condition once for each image; classes may be one for each image already."""
    array = np.asarray(value)
    return array if name == "class_labels" and array.ndim else np.broadcast_to(array, (count, *array.shape))


# --- tasks ------------------------------------------------------------------------------------------------------------


def nothing() -> None:
    """Does nothing: the default of `on_step`."""


def sample(
    network: Network,
    schedule: AnySchedule,
    noise: np.ndarray,
    num_steps: int,
    sampler: str | None = None,
    class_labels: ArrayLike | None = None,
    on_step: Callable[[], None] = nothing,
    fresh: Fresh | None = None,
    pictures: np.ndarray | None = None,
    strength: float = 1.0,
    told: bool = False,
) -> np.ndarray:
    """Returns images made of noise `(B, C, H, W)`, of that shape, in [-1, 1] or a little beyond.

    With `pictures` of that shape, in [-1, 1], sampling starts from them at a strength, see `generate`. A network that
    is `told` gets the time after each step of a table as `next_timestep`.
    """
    following = [row.next_timestep for row in schedule.tables.get(num_steps, [])] if told else []
    skipped = 0 if pictures is None else num_steps - steps_to_take(num_steps, strength)
    x = noise
    for number, (timestep, step) in enumerate(steps_of(schedule, num_steps, sampler, fresh)):
        if number < skipped:
            continue
        if pictures is not None and number == skipped > 0:
            signal, rest = schedule.levels(timestep)
            x = (signal * pictures + rest * noise).astype(np.float32)
        on_step()
        more = {"next_timestep": following[number]} if following else {}
        x = step(x, network(x, timestep, class_labels, **more)).astype(np.float32)
    return x


def steps_to_take(num_steps: int, strength: float) -> int:
    """Returns the number of sampling steps that are left for a strength: their product, rounded down.

    Raises:
        ExportedModelError: for a strength that is not in (0, 1], or that leaves no step.
    """
    if not 0 < strength <= 1:
        raise ExportedModelError(f"strength {strength:g} must be above 0 and at most 1")
    left = math.floor(num_steps * strength + 1e-9)  # 0.29 * 100 is less than 29 in floating point
    if left == 0:
        raise ExportedModelError(
            f"strength {strength:g} of {num_steps} sampling steps is less than one step; take a higher strength, or at "
            f"least {math.ceil(1 / strength - 1e-9)} steps"
        )
    return left


def fitted(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns images `(B, C, H, W)`, scaled until they just cover a size, and cut out of the middle."""
    scale = max(height / image.shape[2], width / image.shape[3])
    tall, wide = max(height, round(image.shape[2] * scale)), max(width, round(image.shape[3] * scale))
    large = _resized(image.astype(np.float32), tall, wide) if (tall, wide) != image.shape[2:] else image
    top, left = round((tall - height) * 0.5), round((wide - width) * 0.5)
    return large[:, :, top : top + height, left : left + width].clip(0, 1).astype(np.float32)


def generate(
    model: ExportedModel,
    num_images: int,
    *,
    steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    class_label: int | str | None = None,
    batch_size: int = 64,
    size: tuple[int, int] | None = None,
    on_step: Callable[[], None] = nothing,
    prompt: Prompt | None = None,
    negative_prompt: Prompt | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    image: np.ndarray | None = None,
    strength: float = 0.8,
    solver_steps: int | str | None = None,
    first_frames: np.ndarray | None = None,
) -> np.ndarray:
    """Returns new images `(num_images, C, H, W)` in [0, 1]; image k depends on `(seed, k)` alone.

    A model of clips makes clips `(num_images, C, F, H, W)`.

    Args:
        model: what `load` returns.
        num_images: the number of images.
        steps: the number of sampling steps: evaluations of the network per image. If None, 50, or the most that a
            distilled model has.
        sampler: one of `SAMPLERS`. If None, the model's table for this number of steps, or else the first sampler that
            fits the model.
        seed: the seed of the noise, see `normal_noise`; `cunet sample` makes other images from the same seed.
        class_label: the class of the images by number or name, or `"any"`, for class-conditional models. If None, the
            images show all classes in turn, or any class if there is a `prompt` or an `image`.
        batch_size: the number of images at a time.
        size: height and width in pixels, for models exported with `--any-size`; those of training if None.
        on_step: called before each evaluation; what it raises ends the sampling.
        prompt: what the images are to show, for models with text.
        negative_prompt: what guidance leads away from; the empty text if None.
        guidance_scale: how far the images are led away from those without a condition, see `guided`; the model's own
            if None, and 1 for images of any class.
        guidance_interval: the part of the noise range in which there is guidance.
        image: start from this image `(1, C, H, W)` in [0, 1], or from one for each, instead of pure noise. It is scaled
            and cropped to the size of the new images.
        strength: the fraction of the steps that are taken if there is an `image`, the last ones: 1 ignores the image,
            and the less it is, the more is left of the image.
        solver_steps: the number of solver steps, or `"auto"`, see `with_depth`; as trained if None.
        first_frames: frames `(C, K, H, W)` in [0, 1] that every clip begins with, fewer than a clip has.

    Raises:
        ExportedModelError: for arguments that do not fit the model, and if the images have values that are not finite.
    """
    if num_images < 1 or batch_size < 1:
        raise ExportedModelError(f"{num_images} images, {batch_size} at a time: both must be at least 1")
    if model.task != "generation":
        raise ExportedModelError(f"this model was trained to {model.task} images: give one as input")
    if model.makes_clips and (image is not None or size is not None):
        raise ExportedModelError("image and size are for models of images, and this one makes clips; leave them out")
    image_shape = (model.image_shape[0], *(size or model.image_shape[1:]))
    if any(side % model.factor for side in image_shape[1:]):
        raise ExportedModelError(f"size {size}: this model makes images whose sides are multiples of {model.factor}")
    shape = (model.shape[0], *(side // model.factor for side in image_shape[1:]))
    model.check_shape((1, *shape))
    if negative_prompt is not None and not model.takes_text:
        raise ExportedModelError("a negative prompt was given, but this model was trained without text; leave it out")
    asked, free = conditions_of(model, class_label, prompt), None
    in_turn = shows_all_classes(model, class_label, prompt, image)
    if guidance_scale is None:
        guidance_scale = 1.0 if class_label is None and prompt is None and not in_turn else model.guidance_scale
    if guidance_scale != 1 and model.can_be_guided:
        free = conditions_of(model, model.null_class, negative_prompt)
    steps, told = (
        number_of_steps(model, steps, sampler),
        any(about["name"] == "next_timestep" for about in model.inputs),
    )
    pictures = None if image is None else model.encode(_pictures(image, num_images, image_shape))
    hold, made = _holding(model, first_frames), []
    for start in range(0, num_images, batch_size):
        numbers = range(start, min(start + batch_size, num_images))
        if in_turn:
            asked["class_labels"] = np.array(numbers) % model.num_own_classes
        network = with_depth(model, guided(model, asked, free, guidance_scale, guidance_interval), solver_steps)
        network = _on_held(network, hold)
        fresh = _noise_source(seed, numbers, shape)
        noise = np.stack([normal_noise(seed, k, shape) for k in numbers])
        begin = None if pictures is None else pictures[start : numbers.stop]
        made.append(sample(network, model.schedule, noise, steps, sampler, None, on_step, fresh, begin, strength, told))
    return _to_unit(hold(model.decode(np.concatenate(made))))


def _holding(model: ExportedModel, first_frames: np.ndarray | None) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that puts the known first frames, without noise, into clips `(B, C, F, H, W)` in [-1, 1]."""
    if first_frames is None:
        return lambda clips: clips
    channels, *frames, height, width = model.shape
    count = first_frames.shape[1] if first_frames.ndim == 4 and model.makes_clips else 0
    if not model.makes_clips or not 1 <= count < frames[0] or first_frames.shape != (channels, count, height, width):
        wanted = f"({channels}, 1 to {frames[0] - 1}, {height}, {width})" if frames else "none, for a model of images"
        raise ExportedModelError(f"first_frames has shape {first_frames.shape}; expected {wanted}")
    known = (first_frames * 2 - 1).astype(np.float32)
    return lambda clips: np.concatenate(
        [np.broadcast_to(known, (len(clips), *known.shape)), clips[:, :, count:]], axis=2
    )


def _on_held(network: Network, hold: Callable[[np.ndarray], np.ndarray]) -> Network:
    """Returns a network that sees clips with their known frames."""
    return lambda x, *inputs, **more: network(hold(x), *inputs, **more)


def _noise_source(seed: int, numbers: range, shape: tuple[int, ...]) -> Fresh:
    """Returns the source of the new noise of a table for the images of these numbers."""

    def fresh(step: int) -> np.ndarray:
        return np.stack([normal_noise(seed, k, shape, FRESH_STREAM + step) for k in numbers])

    return fresh


def _pictures(image: np.ndarray, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns images to start from, `(count, C, H, W)` in [-1, 1], of the shape of the new ones."""
    if image.ndim != 4 or image.shape[1] != shape[0] or len(image) not in (1, count):
        expected = f"(1, {shape[0]}, H, W), or {count} of them"
        raise ExportedModelError(f"the images to start from have shape {image.shape}; expected {expected}")
    return np.broadcast_to(fitted(image, *shape[1:]) * 2 - 1, (count, *shape))


def denoise(
    model: ExportedModel,
    images: np.ndarray,
    sigma: float | None,
    *,
    mode: str = "mean",
    steps: int = 20,
    class_label: int | None = None,
    on_step: Callable[[], None] = nothing,
) -> np.ndarray:
    """Removes white Gaussian noise from images `(B, C, H, W)` in [0, 1], and returns images of that shape.

    A model that was trained for it predicts the noise. A diffusion model knows noise of every strength: the image,
    scaled to the form that the model was trained on, is its input at the timestep of that strength.

    Args:
        model: what `load` returns.
        images: images of the exported size, or of any size with `--any-size`.
        sigma: the standard deviation of the noise on the 0–255 scale; None for a model that does not need it.
        mode: `"mean"` takes one evaluation and returns the mean of what is likely; `"sample"` takes several steps of
            DDIM down from that timestep, and is sharper.
        steps: the number of sampling steps of mode `"sample"`.
        class_label: the class of the images, for class-conditional models.
        on_step: called before each evaluation; what it raises ends the work.

    Raises:
        ExportedModelError: for arguments that do not fit the model.
    """
    if mode not in ("mean", "sample"):
        raise ExportedModelError(f"mode {mode!r} is unknown; expected mean or sample")
    if steps < 1:
        raise ExportedModelError(f"{steps} sampling steps: expected at least 1")
    if model.codec_decoder is not None or model.makes_clips:
        what = "makes clips" if model.makes_clips else "works on latents"
        raise ExportedModelError(f"this model {what}; denoising takes models that work on the pixels of images")
    if model.task == "denoise":
        if mode == "sample":
            raise ExportedModelError("mode sample needs a diffusion model; this one was trained to predict the mean")
        if sigma is None and model.options["sigma_conditioned"]:
            raise ExportedModelError("this model needs sigma: the noise's standard deviation on the 0–255 scale")
        noisy = _padded(model, images.astype(np.float32) * 2 - 1)
        on_step()
        clean = noisy - model(noisy, (sigma or 0) if model.options["sigma_conditioned"] else 0)
        return _to_unit(clean[:, :, : images.shape[2], : images.shape[3]])
    if model.task != "generation":
        raise ExportedModelError(f"this model was trained to {model.task} images and removes no noise")
    if sigma is None:
        raise ExportedModelError("give sigma: the noise's standard deviation on the 0–255 scale")
    ratio = sigma * 2 / 255  # of images in [-1, 1]
    schedule = model.schedule
    if not 0 < ratio <= schedule.strongest:
        raise ExportedModelError(
            f"sigma {sigma:g} must lie above 0 and below {schedule.strongest * 127.5:.0f}, the model's limit"
        )
    padded = _padded(model, images.astype(np.float32) * 2 - 1)
    timestep = schedule.nearest_timestep(ratio)
    times = schedule.times_down(timestep, steps if mode == "sample" else 1)
    rows = [schedule.row(*pair) for pair in zip(times, [*times[1:], None])]
    x = padded * rows[0].signal
    for time, step in table(schedule, rows):
        on_step()
        x = step(x, model(x, time, class_label))
    return _to_unit(x[:, :, : images.shape[2], : images.shape[3]])


def upscale(
    model: ExportedModel,
    images: np.ndarray,
    *,
    mode: str = "mean",
    steps: int = 20,
    seed: int = 0,
    on_step: Callable[[], None] = nothing,
) -> np.ndarray:
    """Upscales images `(B, C, H, W)` in [0, 1] with a model that was trained for it, by the factor `options["scale"]`.

    The network gets the image enlarged by bicubic interpolation, and the state of the process. It predicts what is
    missing in the enlarged image.

    Args:
        model: what `load` returns; if it has one channel, it works on each channel of the images by itself.
        images: images whose enlarged size the network accepts (any size, with `--any-size`).
        mode: `"mean"` takes one evaluation and returns the mean of what is likely; `"sample"` starts DDIM from noise,
            and is sharper.
        steps: the number of sampling steps of mode `"sample"`.
        seed: the seed of its noise.
        on_step: called before each evaluation; what it raises ends the work.

    Returns:
        Images `(B, C, scale H, scale W)` in [0, 1].

    Raises:
        ExportedModelError: for arguments that do not fit the model.
    """
    if model.task != "upscale":
        raise ExportedModelError(f"this model was made for {model.task}, and enlarges nothing")
    if mode not in ("mean", "sample"):
        raise ExportedModelError(f"mode {mode!r} is unknown; expected mean or sample")
    scale, channels = int(model.options["scale"]), model.shape[0] // 2
    planes = images.reshape(-1, 1, *images.shape[2:]) if channels == 1 else images
    enlarged = _enlarged(planes.astype(np.float32), scale)
    condition = _padded(model, enlarged * 2 - 1)

    def network(x: np.ndarray, timestep: int, class_labels: None = None) -> np.ndarray:
        return model(np.concatenate([x, condition], axis=1), timestep)

    schedule = model.schedule
    if not isinstance(schedule, Schedule):
        raise ExportedModelError(
            "models that enlarge images are variance preserving; this one is damaged: export again"
        )
    if mode == "sample":
        noise = np.stack([normal_noise(seed, k, condition.shape[1:]) for k in range(len(condition))])
        residual = sample(network, schedule, noise, steps, on_step=on_step)
    else:
        on_step()
        last, zeros = len(schedule.alphas_cumprod) - 1, np.zeros_like(condition)
        alpha = schedule.alphas_cumprod[last]
        residual, _ = schedule.image_and_noise(zeros, network(zeros, last), np.sqrt(alpha), np.sqrt(1 - alpha))
    residual = residual[:, :, : enlarged.shape[2], : enlarged.shape[3]] / model.options["residual_scale"]
    result = _to_unit(enlarged * 2 - 1 + residual)
    return result.reshape(len(images), -1, *result.shape[2:])


def _enlarged(images: np.ndarray, scale: int) -> np.ndarray:
    """Returns images enlarged by bicubic interpolation, `(B, C, scale H, scale W)`; values may leave their range."""
    return _resized(images, images.shape[2] * scale, images.shape[3] * scale)


def _resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns images `(B, C, height, width)` by antialiased bicubic interpolation; values may leave their range."""
    pillow = _pillow()
    bicubic = pillow.Resampling.BICUBIC
    planes = [np.asarray(pillow.fromarray(p).resize((width, height), bicubic)) for i in images for p in i]
    return np.stack(planes).reshape(*images.shape[:2], height, width)


def _padded(model: ExportedModel, images: np.ndarray) -> np.ndarray:
    """Returns images mirrored at the right and the bottom up to a size that the network accepts."""
    if not model.any_size:
        return images
    missing = [-size % model.multiple_of for size in images.shape[2:]]
    if max(missing) >= min(images.shape[2:]):
        raise ExportedModelError(f"images of {images.shape[2]}x{images.shape[3]} are too small for this model")
    return np.pad(images, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])), mode="reflect")


def _to_unit(images: np.ndarray) -> np.ndarray:
    if not np.isfinite(images).all():
        raise ExportedModelError("the model made values that are not finite; export it in another precision")
    return (images / 2 + np.float32(0.5)).clip(0, 1)


# --- images -----------------------------------------------------------------------------------------------------------


def _pillow() -> ModuleType:
    return import_needed("PIL.Image", "pillow", "reading and writing images")


def read_image(path: str | os.PathLike, channels: int) -> np.ndarray:
    """Returns an image file as `(1, channels, H, W)` in [0, 1], turned upright by its EXIF orientation.

    It becomes grey for one channel, and has opacity for four. Grey images of 16 and 32 bits keep their depth.

    Raises:
        ExportedModelError: if it cannot be read.
    """
    pillow = _pillow()
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise ExportedModelError(f"images have 1, 3 or 4 channels, and this model has {channels}")
    if not os.path.isfile(path):  # a pipe would be waited for, without end
        raise ExportedModelError(f"{path} cannot be read as an image (it does not exist, or is not a regular file)")
    try:
        with pillow.open(path) as picture:
            pixels = _pixels(picture, modes[channels])
    except ExportedModelError as error:
        raise ExportedModelError(f"{path}: {error}") from error
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise ExportedModelError(f"{path} cannot be read as an image ({error})") from error
    return pixels.reshape(1, *pixels.shape[:2], channels).transpose(0, 3, 1, 2)


def _pixels(picture: Any, mode: str) -> np.ndarray:
    """Returns a picture as `(H, W)` or `(H, W, C)` in [0, 1], float32."""
    from PIL import ImageOps

    with contextlib.suppress(Exception):  # cameras write metadata that no parser expects; the pixels are good
        picture = ImageOps.exif_transpose(picture)
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return np.asarray(picture.convert(mode), np.float32) / 255
    grey = _full_scale(np.asarray(picture, np.float32), picture.mode)
    return np.stack([grey] * min(len(mode), 3) + [np.ones_like(grey)] * (len(mode) == 4), axis=-1)


def _full_scale(values: np.ndarray, mode: str) -> np.ndarray:
    """Returns high-depth grey values in [0, 1], by the usual range that their type and extremes speak for.

    16 bits count to 65535. Wider integers count to 255 or 65535; floats count to 1, 255 or 65535, or from -1 to 1, and
    may overshoot by a tenth, as resampling does.
    """
    low, high = float(values.min()), float(values.max())
    ranges = {"I": ((0, 255), (0, 65535)), "F": ((0, 1), (0, 255), (0, 65535), (-1, 1))}.get(mode, ((0, 65535),))
    for black, white in ranges:
        room = 0.1 * white if mode == "F" else 0
        dark = white > 1 and (black, white) != ranges[0] and high < white / 16
        if black - room <= low and high <= white + room and not dark:
            return ((values - black) / (white - black)).clip(0, 1)
    raise ExportedModelError(
        f"its values reach from {low:g} to {high:g}, which is no usual range; convert it to 8 or 16 bits"
    )


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Returns images `(B, C, H, W)` in [0, 1] as `(B, H, W, C)`, uint8."""
    return (images.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


def grid(images: np.ndarray, padding: int = 2) -> np.ndarray:
    """Arranges images `(B, C, H, W)` as one, `(1, C, H', W')`: in rows of about equal number, on dark grey.

    Small images are enlarged to about 48 pixels by repeating pixels.
    """
    scale = max(1, round(48 / max(images.shape[2:])))
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    shape = (1, channels, rows * (height + padding) + padding, columns * (width + padding) + padding)
    canvas = np.full(shape, 0.25, np.float32)
    for i, image in enumerate(images):
        top = padding + i // columns * (height + padding)
        left = padding + i % columns * (width + padding)
        canvas[0, :, top : top + height, left : left + width] = image
    return canvas


def save_images(
    images: np.ndarray, path: str | os.PathLike, overwrite: bool = False, made_by: Info | None = None
) -> list[Path]:
    """Writes images `(B, C, H, W)` in [0, 1]: as one grid if `path` ends in .png, else as one file each in a folder.

    Each file appears whole or not at all.

    Args:
        images: the images.
        path: where they go.
        overwrite: whether files that exist are replaced.
        made_by: how they were made. It becomes a text of each PNG under the key `METADATA_KEY`, as JSON, with the
            number of the image, or the number of images of a grid. Entries that are None are left out.

    Returns:
        The files.

    Raises:
        ExportedModelError: if a file exists and `overwrite` is False, or cannot be written.
    """
    pillow = _pillow()
    paths = image_paths(path, len(images), overwrite)
    pictures = to_pixels(images if len(paths) == len(images) else grid(images))
    for number, (file, pixels) in enumerate(zip(paths, pictures)):
        text = import_needed("PIL.PngImagePlugin", "pillow").PngInfo()
        if made_by is not None:
            which = {"number": number} if len(paths) == len(images) else {"images": len(images)}
            known = {name: value for name, value in {**made_by, **which}.items() if value is not None}
            text.add_text(METADATA_KEY, json.dumps(known, ensure_ascii=False))
        picture = pillow.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        write_aside(file, functools.partial(picture.save, format="PNG", pnginfo=text))
    return paths


def save_clips(clips: np.ndarray, path: str | os.PathLike, overwrite: bool = False) -> list[Path]:
    """Writes clips `(B, C, F, H, W)` in [0, 1] as GIF: side by side if `path` ends in .gif, else each in a folder.

    Each file appears whole or not at all. Clips have 8 frames a second, and repeat.

    Raises:
        ExportedModelError: if a file exists and `overwrite` is False, or cannot be written.
    """
    pillow = _pillow()
    paths = image_paths(path, len(clips), overwrite, ".gif")
    frames = np.moveaxis(clips, 2, 0)
    films = frames.swapaxes(0, 1) if len(paths) == len(clips) else [np.concatenate([grid(each) for each in frames])]
    for film, file in zip(films, paths):
        first, *others = [pillow.fromarray(p[:, :, 0] if p.shape[2] == 1 else p) for p in to_pixels(film)]
        more: Info = {"format": "GIF", "save_all": True, "append_images": others, "loop": 0, "optimize": False}
        write_aside(file, functools.partial(first.save, duration=125, **more))
    return paths


def write_aside(file: Path, write: Callable[[Path], None]) -> None:
    """Has a file written under another name, and gives it its own: it appears whole or not at all."""
    aside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    new_folder = not os.path.lexists(file.parent)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        os.replace(aside, file)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise ExportedModelError(
            f"{file} cannot be written ({reason}); free some space or choose another --output"
        ) from error
    finally:
        with contextlib.suppress(OSError, ValueError):
            aside.unlink()  # left over if something went wrong
        if new_folder:
            with contextlib.suppress(OSError, ValueError):
                file.parent.rmdir()  # goes only if nothing was written


def image_paths(path: str | os.PathLike, count: int, overwrite: bool = False, ending: str = ".png") -> list[Path]:
    """Returns the files that `save_images` writes: in a folder, if `path` is one or ends with a slash.

    Raises:
        ExportedModelError: if one of them exists and `overwrite` is False, or for a name with another ending.
    """
    if not 1 <= count <= MOST_IMAGES:
        raise ExportedModelError(f"{count} images: expected 1 to {MOST_IMAGES}")
    if not os.fspath(path):
        raise ExportedModelError(f"--output is empty: name a {ending} file or a folder")
    target = Path(path)
    is_folder = os.fspath(path).endswith(("/", os.sep)) or os.path.isdir(target)
    one = target.suffix.lower() == ending and not is_folder
    if target.suffix and not one and not is_folder:
        known = ending if target.suffix.lower() in DEFAULT_OUTPUTS else ".png (.gif for clips)"
        raise ExportedModelError(f"{target}: only {known} files are written; name such a file, or a folder")
    paths = [target] if one else [target / f"{k:04d}{ending}" for k in range(count)]
    taken = next((p for p in paths if os.path.exists(p)), None)
    if taken is not None and not overwrite:
        raise ExportedModelError(f"{taken} exists already; choose another --output, or allow it with --overwrite")
    return paths


def run(
    options: Any, more: dict[str, Opener] | None = None, on_step: Callable[[], None] = nothing
) -> tuple[int, list[Path]]:
    """Makes new images or clips, or denoises or upscales the input: the work of both command lines.

    Args:
        options: an object with the attributes that `main` parses.
        more: openers of formats that are not in `OPENERS`.
        on_step: called before each evaluation; what it raises ends the work, and nothing is written.

    Returns:
        The number of images, and the files.

    Raises:
        ExportedModelError: for a model, an image or options that cannot be used, or a file that cannot be written.
    """
    output = options.output
    if output is not None:
        ending = ".gif" if os.fspath(output).lower().endswith(".gif") else ".png"
        image_paths(output, options.num if options.input is None else 1, options.overwrite, ending)
    model = load(options.model, options.threads, more)
    ending = ".gif" if model.makes_clips and options.input is None else ".png"
    output = DEFAULT_OUTPUTS[ending] if output is None else output
    image_paths(output, options.num if options.input is None else 1, options.overwrite, ending)
    steps = number_of_steps(model, options.steps, options.scheduler)
    common: Info = {"steps": steps, "on_step": on_step}
    if options.input is None:
        if options.sigma is not None:
            raise ExportedModelError("sigma describes the noise of an input image; give --input, or leave --sigma out")
        about = {"sampler": options.scheduler, "seed": options.seed, "batch_size": options.batch_size}
        about = {**about, "class_label": options.class_label, "prompt": options.prompt}
        about = {**about, "negative_prompt": options.negative_prompt, "guidance_scale": options.guidance}
        about["solver_steps"] = _number_or_word(options.solver_steps)
        if options.guidance_interval is not None:
            about["guidance_interval"] = read_interval(options.guidance_interval)
        if options.strength is not None:
            if options.image is None:
                raise ExportedModelError("strength is for an image to start from; give --image, or leave it out")
            about["strength"] = options.strength
        if options.image is not None:
            about["image"] = read_image(options.image, model.image_shape[0])
        images = generate(model, options.num, **about, **common)
        if model.makes_clips:
            return len(images), save_clips(images, output, options.overwrite)
        return len(images), save_images(images, output, options.overwrite, _made_by(model, options, steps))
    elif model.task == "upscale":
        small = read_image(options.input, model.shape[0] // 2)
        images = upscale(model, small, mode=options.mode, seed=options.seed, **common)
    else:
        noisy = read_image(options.input, model.shape[0])
        about = {"mode": options.mode, "class_label": options.class_label}
        images = denoise(model, noisy, options.sigma, **about, **common)
    return len(images), save_images(images, output, options.overwrite)


def _number_or_word(text: int | str | None) -> int | str | None:
    return int(text) if isinstance(text, str) and text.isdecimal() else text


def read_interval(text: str) -> tuple[float, float]:
    """Returns the two numbers of LOW:HIGH.

    Raises:
        ExportedModelError: for anything else.
    """
    try:
        low, high = map(float, text.split(":"))
    except ValueError as error:
        raise ExportedModelError(f"guidance interval {text!r}: expected LOW:HIGH, such as 0.2:0.8") from error
    return low, high


def _made_by(model: ExportedModel, options: Any, steps: int) -> Info:
    """Returns how images were made, without paths, for the metadata of their files."""
    label = class_number(model, options.class_label)
    named = model.classes or []
    name = named[label] if label is not None and label < len(named) else label
    in_turn = shows_all_classes(model, options.class_label, options.prompt, options.image)
    asked = in_turn or options.class_label is not None or options.prompt is not None
    scale = model.guidance_scale if options.guidance is None and asked else options.guidance
    return {
        "version": model.info.get("versions", {}).get("continuous-unet"),
        "model": Path(options.model).resolve().name,
        "format": model.info["format"],
        "class": "all in turn" if in_turn else name,
        "prompt": options.prompt,
        "negative_prompt": options.negative_prompt,
        "guidance_scale": scale,
        "guidance_interval": options.guidance_interval,
        "solver_steps": _number_or_word(options.solver_steps),
        "image": None if options.image is None else Path(options.image).name,
        "strength": (0.8 if options.strength is None else options.strength) if options.image is not None else None,
        "scheduler": options.scheduler or default_sampler(model.schedule, steps),
        "steps": steps,
        "seed": options.seed,
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command line of `python runtime.py`, with the model in this file's folder or another."""
    parser = argparse.ArgumentParser(description="Run an exported model; needs numpy, onnxruntime and pillow.")
    parser.add_argument("--model", default=str(Path(__file__).parent), help="an exported folder (default: this one)")
    parser.add_argument("--output", help="a .png file (a grid), a .gif of clips, or a folder (default: images.png)")
    parser.add_argument("--num", type=int, default=16, help="number of new images (default: 16)")
    parser.add_argument(
        "--steps", type=int, help="number of sampling steps (default: 50, or the most that a distilled model has)"
    )
    default = "the model's own times for this number of steps, else ddim, and euler for flow matching"
    parser.add_argument("--scheduler", "--sampler", choices=SAMPLERS, help=f"sampling method (default: {default})")
    parser.add_argument("--seed", type=int, default=0, help="seed; image k depends on it and on k alone (default: 0)")
    parser.add_argument("--class", "--class-label", dest="class_label", help="class of the images: name, number or any")
    parser.add_argument("--prompt", help="what the images are to show, for models with text")
    parser.add_argument("--negative-prompt", help="what guidance leads away from, for models with text")
    parser.add_argument("--guidance", type=float, help="guidance scale; 1 is without (default: that of the model)")
    parser.add_argument("--guidance-interval", help="LOW:HIGH, the part of the noise range with guidance")
    parser.add_argument("--solver-steps", help="solver steps in each block, or auto (default: as trained)")
    parser.add_argument("--image", help="an image to start from, instead of noise alone")
    parser.add_argument(
        "--strength",
        type=float,
        help="fraction of the sampling steps that change --image, above 0; 1 ignores the image (default: 0.8)",
    )
    parser.add_argument("--input", help="an image to denoise or to upscale")
    parser.add_argument("--sigma", type=float, help="standard deviation of the noise in --input, on the 0-255 scale")
    parser.add_argument(
        "--mode",
        choices=("mean", "sample"),
        default="mean",
        help="with --input: mean takes one evaluation; sample takes --steps of them and is sharper (default: mean)",
    )
    parser.add_argument("--threads", type=int, help="number of threads (default: one for each core)")
    parser.add_argument("--batch-size", type=int, default=64, help="number of images at a time (default: 64)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    options = parser.parse_args(argv)
    try:
        count, paths = run(options)
    except ExportedModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    what = "clip" if paths[0].suffix == ".gif" else "image"
    print(f"{count} {what}{'s' * (count != 1)}: {paths[0] if len(paths) == 1 else paths[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
