"""Run exported diffusion models with NumPy and ONNX Runtime (or OpenVINO) alone: no torch, no diffusers.

One file, which `cunet export` puts beside the model, so that a folder is all that another machine needs:

    pip install numpy onnxruntime pillow
    python runtime.py --num 4 --seed 0 --output images.png

The same from Python:

    import runtime
    model = runtime.load("exported")
    images = runtime.generate(model, 4, steps=20, seed=0)      # (4, C, H, W) in [0, 1]
    runtime.save_images(images, "images.png")

What it does, by name: `normal_noise` (a counter-based generator, the same numbers as in the browser page), the samplers
`ddim` and `dpm++` (equal to diffusers' schedulers to rounding), `generate`, `denoise`, `upscale`.

Arrays are `(B, C, H, W)`, float32. Samplers and networks work in [-1, 1], images that go in and out are in [0, 1].
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

INFO_FILE = "export.json"
FORMAT_VERSION = 1
INPUTS = ("sample", "timestep", "class_labels")
"""Of the network, by name; the last one of class-conditional models alone."""
TASKS = ("generation", "denoise", "upscale")
MOST_IMAGES, MOST_THREADS = 1_000_000, 1024
MOST_PIXELS = 2**24
"""Of an image, or of a batch of fixed size, that an export is made for."""
Network = Callable[..., np.ndarray]
"""`network(sample, timestep, class_labels=None) -> prediction`: `(B, C, H, W)`, a number or `(B,)`, `(B,)`."""


class ExportedModelError(ValueError):
    """Bad input: an export that is none or is damaged, or arguments that do not fit it. One line, for a person."""


# --- noise ------------------------------------------------------------------------------------------------------------


def philox(key: tuple[int, int], counters: np.ndarray) -> np.ndarray:
    """Random 32-bit words of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

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
    """Standard normal numbers that depend on `(seed, number, stream)` alone: image k is the same in every batch.

    Philox with the seed as key and (block, image number, stream, 0) as counter; each pair of words becomes two normal
    numbers by Box and Muller's formula, in float64. The browser page computes the same.

    Args:
        seed: 0 to 2**53 - 1, the whole numbers that JavaScript has too.
        number: of the image.
        shape: of the result, float32.
        stream: for further noise of the same image.
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
class Schedule:
    """The diffusion process that a model was trained for; in `export.json` as `schedule`."""

    alphas_cumprod: np.ndarray
    """Share of the signal's variance left at each timestep, `(T,)`, float32."""
    prediction_type: str = "epsilon"
    """What the network predicts: `epsilon` (the noise), `v_prediction`, or `sample` (the image)."""
    timestep_spacing: str = "trailing"
    steps_offset: int = 0
    clip_sample: bool = False
    """Whether DDIM keeps its estimates of the image within `clip_sample_range`."""
    clip_sample_range: float = 1.0
    final_alpha_cumprod: float = 1.0
    """What DDIM's last step ends at."""

    def sigmas(self) -> np.ndarray:
        """Noise per signal at each timestep, `(T,)`: the standard deviation of noise on an image in [-1, 1]."""
        alphas = self.alphas_cumprod
        alphas = np.where(alphas == 0, np.float32(2**-24), alphas)  # pure noise would divide by zero; as diffusers does
        return np.sqrt((1 - alphas) / alphas)

    def nearest_timestep(self, sigma: float) -> int:
        """The timestep whose noise is nearest to a standard deviation, on a scale of ratios."""
        return int(np.abs(np.log(self.sigmas()) - math.log(sigma)).argmin())

    def image_and_noise(
        self, x: np.ndarray, prediction: np.ndarray, signal: Any, noise: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """The image and the unit noise that a prediction stands for; `x` is `signal` of one, `noise` of the other."""
        if self.prediction_type == "epsilon":
            return (x - noise * prediction) / signal, prediction
        if self.prediction_type == "sample":
            return prediction, (x - signal * prediction) / noise
        return signal * x - noise * prediction, signal * prediction + noise * x


Step = Callable[[np.ndarray, np.ndarray], np.ndarray]
Sampler = Callable[[Schedule, int], Iterator[tuple[int, Step]]]


def ddim(schedule: Schedule, num_steps: int) -> Iterator[tuple[int, Step]]:
    """DDIM without noise (Song et al., arXiv 2010.02502): timesteps, each with `step(x, prediction) -> next x`."""
    alphas = schedule.alphas_cumprod
    total = len(alphas)
    if schedule.timestep_spacing == "trailing":
        timesteps = np.round(np.arange(total, 0, -total / num_steps)).astype(int) - 1
    elif schedule.timestep_spacing == "leading":
        timesteps = np.arange(num_steps)[::-1] * (total // num_steps) + schedule.steps_offset
    else:
        timesteps = np.linspace(0, total - 1, num_steps).round()[::-1].astype(int)
    for timestep in timesteps:
        before = timestep - total // num_steps
        yield int(timestep), _ddim_step(schedule, timestep, alphas[before] if before >= 0 else None)


def _ddim_step(schedule: Schedule, timestep: int, next_alpha: Any) -> Step:
    alpha = schedule.alphas_cumprod[timestep]
    after = np.float32(schedule.final_alpha_cumprod) if next_alpha is None else next_alpha

    def step(x: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        image, noise = schedule.image_and_noise(x, prediction, np.sqrt(alpha), np.sqrt(1 - alpha))
        if schedule.clip_sample:
            image = image.clip(-schedule.clip_sample_range, schedule.clip_sample_range)
        return np.sqrt(after) * image + np.sqrt(1 - after) * noise

    return step


def dpm_solver(schedule: Schedule, num_steps: int) -> Iterator[tuple[int, Step]]:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095), its first and last step of first order, as diffusers does it."""
    total = len(schedule.alphas_cumprod)
    if schedule.timestep_spacing == "trailing":
        timesteps = np.arange(total, 0, -total / num_steps).round().astype(int) - 1
    elif schedule.timestep_spacing == "leading":
        timesteps = np.arange(num_steps + 1)[::-1][:-1] * (total // (num_steps + 1)) + schedule.steps_offset
    else:
        timesteps = np.linspace(0, total - 1, num_steps + 1).round()[::-1][:-1].astype(int)
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
            if 0 < i < len(timesteps) - 1:
                ratio = (logs[i] - logs[i - 1]) / h
                result = result - np.float32(0.5) * weight * (image - images.pop(0)) / ratio
            return result

        return step

    for i, timestep in enumerate(timesteps):
        yield int(timestep), make_step(i)


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "dpm++": dpm_solver}
"""Samplers by name: `sampler(schedule, num_steps)` gives a timestep and a step for each evaluation of the network."""


# --- models -----------------------------------------------------------------------------------------------------------


class ExportedModel:
    """A network with what `export.json` says of it.

    Call it with arrays in [-1, 1] as the network was trained: `model(sample, timestep, class_labels)`. A batch larger
    than the exported one is served in pieces.
    """

    def __init__(self, network: Network, info: dict[str, Any]) -> None:
        self.network = network
        self.info = info
        self.task: str = info["task"]
        """`generation`, or what the model was trained for: `denoise`, `upscale`."""
        self.options: dict[str, Any] = dict(info.get("options", {}))
        """Of models for a task: `sigma_conditioned`; `scale` and `residual_scale`."""
        self._schedule = None if info["schedule"] is None else read_schedule(info)
        shape = info["inputs"][0]["shape"]
        self.batch_size: int | None = shape[0] if isinstance(shape[0], int) else None
        self.largest_batch = int(self.batch_size or info.get("largest_batch", 2**31))
        self.shape = tuple(info["image_shape"])
        """`(C, H, W)` of the images."""
        self.any_size = isinstance(shape[2], str)
        self.multiple_of = int(info["size_multiple_of"])
        self.num_classes: int | None = info["num_classes"]

    @property
    def schedule(self) -> Schedule:
        """The diffusion process; models that were trained to give the clean image have none."""
        if self._schedule is None:
            raise ExportedModelError(f"this model was trained to {self.task}; it has no noise schedule to sample with")
        return self._schedule

    def __call__(self, sample: np.ndarray, timestep: Any, class_labels: Any = None) -> np.ndarray:
        """Prediction `(B, C_out, H, W)` for `sample` `(B, C, H, W)`, one timestep or `(B,)`, one class or `(B,)`."""
        self.check_shape(sample.shape)
        count = len(sample)
        inputs = [np.ascontiguousarray(sample, np.float32)]
        inputs.append(np.broadcast_to(np.asarray(timestep, np.float32), (count,)))
        if self.num_classes is not None:
            inputs.append(np.broadcast_to(self._checked_labels(class_labels, count), (count,)))
        elif class_labels is not None:
            raise ExportedModelError("a class was given, but this model was trained without classes")
        starts = range(0, count, self.largest_batch)
        return np.concatenate([self._piece([a[s : s + self.largest_batch] for a in inputs]) for s in starts])

    def _piece(self, inputs: list[np.ndarray]) -> np.ndarray:
        count = len(inputs[0])
        if self.batch_size is not None:  # the last piece may be short of images
            inputs = [np.concatenate([a, np.repeat(a[-1:], self.batch_size - count, axis=0)]) for a in inputs]
        return self.network(*(np.ascontiguousarray(a) for a in inputs))[:count]

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse a shape outside the exported range."""
        channels, height, width = self.shape
        if len(shape) != 4 or shape[1] != channels:
            raise ExportedModelError(f"the images have shape {shape}; this model takes (B, {channels}, H, W)")
        if not self.any_size and shape[2:] != (height, width):
            raise ExportedModelError(
                f"the images are {shape[2]}x{shape[3]}, and this model was exported for {height}x{width} alone; "
                "resize them, or export with --any-size"
            )
        if shape[2] % self.multiple_of or shape[3] % self.multiple_of:
            raise ExportedModelError(
                f"the images are {shape[2]}x{shape[3]}; this model needs multiples of {self.multiple_of}"
            )

    def _checked_labels(self, labels: Any, count: int) -> np.ndarray:
        if labels is None:
            raise ExportedModelError(f"this model is class-conditional: give a class, 0 to {self._last_class}")
        array = np.asarray(labels, np.int64)
        if array.shape not in ((), (count,)) or array.min() < 0 or array.max() > self._last_class:
            raise ExportedModelError(f"classes must be one or {count} numbers in 0 to {self._last_class}, got {labels}")
        return array

    @property
    def _last_class(self) -> int:
        assert self.num_classes is not None
        return self.num_classes - 1


def read_schedule(info: dict[str, Any]) -> Schedule:
    """The schedule in `export.json`."""
    values = dict(info["schedule"])
    schedule = Schedule(**{**values, "alphas_cumprod": np.array(values["alphas_cumprod"], np.float32)})
    alphas = schedule.alphas_cumprod
    if schedule.prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise ExportedModelError(f"the prediction_type {schedule.prediction_type!r} of the export is unknown")
    if schedule.timestep_spacing not in ("leading", "linspace", "trailing"):
        raise ExportedModelError(f"the timestep_spacing {schedule.timestep_spacing!r} of the export is unknown")
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


def _is_whole(value: Any, least: int, most: int = 2**31) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def check_info(info: dict[str, Any]) -> None:
    """Refuse values of `export.json` that no export has, by name."""
    files, shape, batch = info["files"], info["image_shape"], info["inputs"][0]["shape"][0]
    task, options = info["task"], info.get("options", {})
    sound = {
        "format": isinstance(info["format"], str),
        "files": isinstance(files, dict) and all(isinstance(facts.get("sha256"), str) for facts in files.values()),
        "network": info["network"] in files,
        "image_shape": isinstance(shape, list)
        and len(shape) == 3
        and all(_is_whole(size, 1) for size in shape)
        and shape[1] * shape[2] <= MOST_PIXELS,
        "inputs": isinstance(batch, str) or _is_whole(batch, 1),
        "size_multiple_of": _is_whole(info["size_multiple_of"], 1),
        "num_classes": info["num_classes"] is None or _is_whole(info["num_classes"], 1),
        "largest_batch": _is_whole(info.get("largest_batch", 1), 1),
        "task": task in TASKS,
        "options": task != "upscale"
        or (_is_whole(options["scale"], 1, 16) and 0 < float(options["residual_scale"]) < math.inf),
        "schedule": info["schedule"] is not None or task == "denoise",
    }
    for name, right in sound.items():
        if not right:
            raise ExportedModelError(
                f"{name} is {json.dumps(info.get(name))[:80]}, which no export has; it is damaged: export again"
            )


def read_info(folder: str | os.PathLike) -> dict[str, Any]:
    """`export.json` of a folder, checked, and the files that it names compared with their checksums.

    Raises:
        ExportedModelError: if there is no export, or it is damaged.
    """
    path = Path(folder) / INFO_FILE
    if not path.is_file():
        raise ExportedModelError(
            f"{folder} holds no exported model ({INFO_FILE} is missing); make one by `cunet export`"
        )
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        if info["format_version"] != FORMAT_VERSION:
            raise ExportedModelError(f"it is of format version {info['format_version']}; expected {FORMAT_VERSION}")
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


def open_onnx(path: Path, threads: int | None = None) -> Network:
    """A network in ONNX Runtime, on the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportedModelError("running this model needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings are about the optimiser's choices
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen classes of its own
        raise ExportedModelError(f"{path} cannot be loaded ({_first_line(error)})") from error
    return lambda *inputs: session.run(None, dict(zip(INPUTS, inputs)))[0]


def open_openvino(path: Path, threads: int | None = None) -> Network:
    """A network in OpenVINO, on the CPU, computing in the precision that it was exported in."""
    try:
        import openvino
    except ImportError as error:
        raise ExportedModelError("running this model needs openvino: pip install openvino") from error
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16 where the processor has it
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except Exception as error:
        raise ExportedModelError(f"{path} cannot be loaded ({_first_line(error)})") from error
    request = compiled.create_infer_request()
    return lambda *inputs: request.infer(list(inputs))[0].copy()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


Opener = Callable[[Path, int | None], Network]
OPENERS: dict[str, Opener] = {"onnx": open_onnx, "openvino": open_openvino}
"""Formats that need no torch."""


def load(folder: str | os.PathLike, threads: int | None = None, more: dict[str, Opener] | None = None) -> ExportedModel:
    """An exported model.

    Args:
        folder: what `cunet export` wrote.
        threads: of one evaluation; as many as there are cores if None.
        more: formats beside `OPENERS`.

    Raises:
        ExportedModelError: if it is none, or damaged, or its runtime is missing.
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
    model = ExportedModel(openers[info["format"]](network, threads), info)
    _check_network(model, network)
    return model


def _check_network(model: ExportedModel, path: Path) -> None:
    """Refuse a network that is not the one that `export.json` describes, by one evaluation."""
    sample = np.zeros((1, *model.shape), np.float32)
    expected = list(model.info["outputs"][0]["shape"])[1:2] + list(model.shape[1:])
    try:
        found = list(model(sample, 0, None if model.num_classes is None else 0).shape)[1:]
    except MemoryError:
        raise
    except Exception as error:  # every runtime has classes of its own
        raise ExportedModelError(
            f"{path} is not the network that {INFO_FILE} describes ({' '.join(str(error).split())[:300]}): export again"
        ) from error
    if found != expected:
        raise ExportedModelError(
            f"{path} is not the network that {INFO_FILE} describes (it gives images of {found}, not {expected}): "
            "export again"
        )


# --- tasks ------------------------------------------------------------------------------------------------------------


def nothing() -> None:
    """What happens at each step if nobody asks for more."""


def sample(
    network: Network,
    schedule: Schedule,
    noise: np.ndarray,
    num_steps: int,
    sampler: str = "ddim",
    class_labels: Any = None,
    on_step: Callable[[], None] = nothing,
) -> np.ndarray:
    """From noise `(B, C, H, W)` to images of that shape, in [-1, 1] or a little beyond."""
    if sampler not in SAMPLERS:
        raise ExportedModelError(f"sampler {sampler!r} is unknown; expected one of {', '.join(SAMPLERS)}")
    if not 1 <= num_steps <= len(schedule.alphas_cumprod):
        raise ExportedModelError(f"{num_steps} steps: expected 1 to {len(schedule.alphas_cumprod)}")
    x = noise
    for timestep, step in SAMPLERS[sampler](schedule, num_steps):
        on_step()
        x = step(x, network(x, timestep, class_labels)).astype(np.float32)
    return x


def generate(
    model: ExportedModel,
    num_images: int,
    *,
    steps: int = 50,
    sampler: str = "ddim",
    seed: int = 0,
    class_label: int | None = None,
    batch_size: int = 64,
    size: tuple[int, int] | None = None,
    on_step: Callable[[], None] = nothing,
) -> np.ndarray:
    """New images `(num_images, C, H, W)` in [0, 1]; image k depends on `(seed, k)` alone.

    Args:
        model: of `load`.
        num_images: number of images.
        steps: evaluations of the network per image.
        sampler: a key of `SAMPLERS`.
        seed: of the noise, see `normal_noise`. The noise is not torch's: `cunet sample` makes other images of a seed.
        class_label: for class-conditional models.
        batch_size: images at a time.
        size: height and width, for models exported with `--any-size`; those of training if None.
        on_step: called before each evaluation; what it raises ends the sampling.

    Raises:
        ExportedModelError: for arguments that do not fit the model, and if it does not make finite values.
    """
    if num_images < 1 or batch_size < 1:
        raise ExportedModelError(f"{num_images} images, {batch_size} at a time: both must be at least 1")
    if model.task != "generation":
        raise ExportedModelError(f"this model was trained to {model.task} images: give one as input")
    shape = (model.shape[0], *(size or model.shape[1:]))
    model.check_shape((1, *shape))
    made = []
    for start in range(0, num_images, batch_size):
        numbers = range(start, min(start + batch_size, num_images))
        noise = np.stack([normal_noise(seed, k, shape) for k in numbers])
        made.append(sample(model, model.schedule, noise, steps, sampler, class_label, on_step))
    return _to_unit(np.concatenate(made))


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
    """Take white Gaussian noise out of images `(B, C, H, W)` in [0, 1].

    By a model that was trained for it, which predicts the noise; or by any diffusion model, which knows noise of every
    strength: `image + sigma noise`, scaled to the form that it was trained on,
    is its input at the timestep of that sigma.

    Args:
        model: of `load`.
        images: of the exported size; with `--any-size`, of every size.
        sigma: standard deviation of the noise, of pixel values up to 255; None for a model that is not told.
        mode: `"mean"`, one evaluation, the most likely values; `"sample"`, several steps of DDIM down from that
            timestep, sharper.
        steps: evaluations of mode `"sample"`.
        class_label: for class-conditional models.
        on_step: called before each evaluation.

    Raises:
        ExportedModelError: for arguments that do not fit the model.
    """
    if mode not in ("mean", "sample"):
        raise ExportedModelError(f"mode {mode!r} is unknown; expected mean or sample")
    if steps < 1:
        raise ExportedModelError(f"{steps} steps: expected at least 1")
    if model.task == "denoise":
        if mode == "sample":
            raise ExportedModelError("mode sample needs a diffusion model; this one was trained to give the mean")
        if sigma is None and model.options["sigma_conditioned"]:
            raise ExportedModelError("this model must be told how strong the noise is: give sigma, of 255")
        noisy = _padded(model, images.astype(np.float32) * 2 - 1)
        on_step()
        clean = noisy - model(noisy, sigma if model.options["sigma_conditioned"] else 0)
        return _to_unit(clean[:, :, : images.shape[2], : images.shape[3]])
    if model.task != "generation":
        raise ExportedModelError(f"this model was trained to {model.task}, and takes out no noise")
    if sigma is None:
        raise ExportedModelError("say how strong the noise is: its standard deviation, of 255 (sigma)")
    ratio = sigma * 2 / 255  # of images in [-1, 1]
    schedule = model.schedule
    strongest = float(schedule.sigmas()[-1])
    if not 0 < ratio <= strongest:
        raise ExportedModelError(
            f"sigma {sigma:g} must lie above 0 and below {strongest * 127.5:.0f}, the model's most"
        )
    padded = _padded(model, images.astype(np.float32) * 2 - 1)
    timestep = schedule.nearest_timestep(ratio)
    x = padded * np.sqrt(schedule.alphas_cumprod[timestep])
    times = [timestep]
    if mode == "sample":
        times = sorted(
            set(np.linspace(timestep, 0, min(steps, timestep + 1)).round().astype(int).tolist()), reverse=True
        )
    for time, after in zip(times, [*times[1:], None]):
        on_step()
        prediction = model(x, time, class_label)
        x = _ddim_step(schedule, time, None if after is None else schedule.alphas_cumprod[after])(x, prediction)
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
    """Enlarge images `(B, C, H, W)` in [0, 1] by a model that was trained for it (`options["scale"]` times).

    The network is given the image enlarged by bicubic interpolation beside the state of the process, and predicts what
    is missing in it.

    Args:
        model: of `load`; of one channel, it works on each channel of the images by itself.
        images: whose enlarged size the network takes (any, with `--any-size`).
        mode: `"mean"`, one evaluation, the most likely values; `"sample"`, DDIM from noise, sharper.
        steps: evaluations of mode `"sample"`.
        seed: of its noise.
        on_step: called before each evaluation.
    """
    if model.task != "upscale":
        raise ExportedModelError(f"this model was made for {model.task}, and enlarges nothing")
    if mode not in ("mean", "sample"):
        raise ExportedModelError(f"mode {mode!r} is unknown; expected mean or sample")
    scale, channels = int(model.options["scale"]), model.shape[0] // 2
    planes = images.reshape(-1, 1, *images.shape[2:]) if channels == 1 else images
    enlarged = _enlarged(planes.astype(np.float32), scale)
    condition = _padded(model, enlarged * 2 - 1)

    def network(x: np.ndarray, timestep: Any, class_labels: Any = None) -> np.ndarray:
        return model(np.concatenate([x, condition], axis=1), timestep)

    schedule = model.schedule
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
    """By bicubic interpolation, `(B, C, scale H, scale W)`, float32; values may leave their range."""
    pillow = _pillow()
    size = (images.shape[3] * scale, images.shape[2] * scale)
    planes = [np.asarray(pillow.fromarray(p).resize(size, pillow.Resampling.BICUBIC)) for i in images for p in i]
    return np.stack(planes).reshape(*images.shape[:2], size[1], size[0])


def _padded(model: ExportedModel, images: np.ndarray) -> np.ndarray:
    """Images of any size, mirrored at the right and the bottom up to a size that the network takes."""
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


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ExportedModelError("reading and writing images needs Pillow: pip install pillow") from error
    return Image


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
        raise ExportedModelError(f"{path} cannot be read as an image (there is no such file)")
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
    """`(B, C, H, W)` in [0, 1] to `(B, H, W, C)`, uint8."""
    return (images.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


def grid(images: np.ndarray, padding: int = 2) -> np.ndarray:
    """Images `(B, C, H, W)` as one, `(1, C, H', W')`, in rows of a square arrangement on dark grey.

    Small ones are enlarged to about 48 pixels, by repeating pixels.
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


def save_images(images: np.ndarray, path: str | os.PathLike, overwrite: bool = False) -> list[Path]:
    """Write images `(B, C, H, W)` in [0, 1]: several as a grid if `path` ends in .png, else one file each in a folder.

    Returns:
        The files, each whole.

    Raises:
        ExportedModelError: if one is there already and `overwrite` is False, or cannot be written.
    """
    pillow = _pillow()
    paths = image_paths(path, len(images), overwrite)
    pictures = to_pixels(images if len(paths) == len(images) else grid(images))
    for file, pixels in zip(paths, pictures):
        aside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        new_folder = not os.path.lexists(file.parent)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            pillow.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(aside, format="PNG")
            os.replace(aside, file)
        except (OSError, ValueError) as error:  # ValueError: a name that can be none
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
    return paths


def image_paths(path: str | os.PathLike, count: int, overwrite: bool = False) -> list[Path]:
    """Returns the files that `save_images` writes: in a folder, if `path` is one or ends with a slash.

    Raises:
        ExportedModelError: if one of them exists and `overwrite` is False, or for a name that is not of a PNG file.
    """
    if not 1 <= count <= MOST_IMAGES:
        raise ExportedModelError(f"{count} images: expected 1 to {MOST_IMAGES}")
    if not os.fspath(path):
        raise ExportedModelError("--output is empty: name a .png file or a folder")
    target = Path(path)
    is_folder = os.fspath(path).endswith(("/", os.sep)) or os.path.isdir(target)
    one = target.suffix.lower() == ".png" and not is_folder
    if target.suffix and not one and not is_folder:
        raise ExportedModelError(f"{target}: only .png files are written; name a .png file or a folder")
    paths = [target] if one else [target / f"{k:04d}.png" for k in range(count)]
    taken = next((p for p in paths if os.path.exists(p)), None)
    if taken is not None and not overwrite:
        raise ExportedModelError(f"{taken} exists already; choose another --output, or allow it with --overwrite")
    return paths


def run(
    options: Any, more: dict[str, Opener] | None = None, on_step: Callable[[], None] = nothing
) -> tuple[int, list[Path]]:
    """Does what both command lines do: new images, or, if there is an input, that one cleaner or larger.

    Args:
        options: with the attributes that `main` parses.
        more: formats beside `OPENERS`.
        on_step: called before each evaluation; what it raises ends the work, and nothing is written.

    Returns:
        The number of images, and the files.
    """
    image_paths(options.output, options.num if options.input is None else 1, options.overwrite)
    model = load(options.model, options.threads, more)
    common: dict[str, Any] = {"steps": options.steps, "on_step": on_step}
    if options.input is None:
        if options.sigma is not None:
            raise ExportedModelError("sigma is the noise of an image that is given; give one, or leave sigma out")
        about = {"sampler": options.scheduler, "seed": options.seed, "batch_size": options.batch_size}
        images = generate(model, options.num, class_label=options.class_label, **about, **common)
    elif model.task == "upscale":
        small = read_image(options.input, model.shape[0] // 2)
        images = upscale(model, small, mode=options.mode, seed=options.seed, **common)
    else:
        noisy = read_image(options.input, model.shape[0])
        about = {"mode": options.mode, "class_label": options.class_label}
        images = denoise(model, noisy, options.sigma, **about, **common)
    return len(images), save_images(images, options.output, options.overwrite)


def main(argv: list[str] | None = None) -> int:
    """`python runtime.py`: images from the model in this file's folder, or another."""
    parser = argparse.ArgumentParser(description="Run an exported model; needs numpy, onnxruntime and pillow.")
    parser.add_argument("--model", default=str(Path(__file__).parent), help="an exported folder (default: this one)")
    parser.add_argument("--output", default="images.png", help="a .png file (a grid if several), or a folder")
    parser.add_argument("--num", type=int, default=16, help="number of new images (default: 16)")
    parser.add_argument("--steps", type=int, default=50, help="evaluations per image (default: 50)")
    parser.add_argument("--scheduler", "--sampler", choices=SAMPLERS, default="ddim", help="default: ddim")
    parser.add_argument("--seed", type=int, default=0, help="image k depends on it and on k alone (default: 0)")
    parser.add_argument("--class-label", type=int, help="for class-conditional models")
    parser.add_argument("--input", help="an image to take noise out of, or to enlarge")
    parser.add_argument("--sigma", type=float, help="standard deviation of its noise, of 255")
    parser.add_argument("--mode", choices=("mean", "sample"), default="mean", help="with --input (default: mean)")
    parser.add_argument("--threads", type=int, help="threads of an evaluation")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time (default: 64)")
    parser.add_argument("--overwrite", action="store_true", help="write over files that are there")
    options = parser.parse_args(argv)
    try:
        count, paths = run(options)
    except ExportedModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{count} images: {paths[0] if len(paths) == 1 else paths[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
