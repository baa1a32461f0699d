"""What the server computes: one request of the page, checked, with a model of this machine."""

import io
import json
import math
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
from PIL import Image

from continuous_unet.app.inpainting import inpaint
from continuous_unet.app.models import AppModel
from continuous_unet.app.options import AppOptions
from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.results import Json
from continuous_unet.deploy.standalone import runtime
from continuous_unet.images.decode import Unreadable, load_image
from continuous_unet.images.photographs import read_photograph

LONGEST_TEXT = 1000
LARGEST_DEPTH = 64
"""The most solver steps of a block."""
LARGEST_START = 4
"""How many times larger than the model's images a picture to start from may be, by its side."""


class Refused(Exception):
    """A request that is not done: a status of HTTP, and one sentence."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """A request of the page."""

    model: str = ""
    client: str = ""
    """Who asks: of each client, the latest request counts."""
    steps: int | None = None
    seed: int = 0
    label: int | None = None
    prompt: str | None = None
    negative: str | None = None
    scale: float = 1.0
    strength: float = 0.8
    repeats: int = 1
    sigma: float | None = None
    fill: bool = False
    """Whether the transparent part of the picture is filled in."""
    solverSteps: int | None = None

    @classmethod
    def read(cls, text: str) -> "Asked":
        """Reads a request.

        Raises:
            Refused: for anything else.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "the request is not JSON") from error
        kinds = {name: (get_args(kind) or (kind,))[0].__name__ for name, kind in get_type_hints(cls).items()}
        if not isinstance(values, dict) or not set(values) <= set(kinds):
            raise Refused(400, f"the request must be an object of {', '.join(kinds)}")
        return cls(**{name: _checked(name, kinds[name], value) for name, value in values.items() if value is not None})


def _checked(name: str, kind: str, value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    right = {
        "str": isinstance(value, str) and len(value) <= LONGEST_TEXT,
        "bool": isinstance(value, bool),
        "int": number and value == int(value),
        "float": number,
    }
    if not right[kind]:
        most = f" of at most {LONGEST_TEXT} characters" if kind == "str" else ""
        raise Refused(400, f"{name} is {json.dumps(value)[:60]}; expected a value of type {kind}{most}")
    return int(value) if kind == "int" else float(value) if kind == "float" else value


class Stopwatch:
    """Counts evaluations and stops the work of a request that has been replaced."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.evaluations = 0
        self.each = 1
        """How many evaluations there are at a time: two with guidance."""

    def __call__(self) -> None:
        """Counts the next evaluation.

        Raises:
            Refused: if a later request has come.
        """
        if self.stop.is_set():
            raise Refused(409, "a later request has come")
        self.evaluations += self.each


@dataclass(frozen=True)
class Answer:
    """A picture as PNG, and what it cost."""

    png: bytes
    evaluations: int
    milliseconds: float


class Workshop:
    """Computes requests, one at a time; models are loaded when they are first asked for."""

    def __init__(self, models: list[AppModel], options: AppOptions) -> None:
        self.models = {model.name: model for model in models}
        self.options = options
        self._generator = lru_cache(maxsize=None)(lambda name: runtime.load(self.models[name].folder, options.threads))
        self._restorer = lru_cache(maxsize=None)(self._load_restorer)

    def check(self, asked: Asked) -> AppModel:
        """Returns the model that is asked for.

        Raises:
            Refused: for a model or numbers that are out of bounds.
        """
        if asked.model not in self.models:
            raise Refused(404, f"there is no model {asked.model!r} here; expected one of {', '.join(self.models)}")
        model, most = self.models[asked.model], self.options.max_steps
        for name, value, low, high in (
            ("steps", (asked.steps or 1) * asked.repeats, 1, most),
            ("repeats", asked.repeats, 1, most),
            ("seed", asked.seed, 0, 2**53 - 1),
            ("scale", asked.scale, 0, 1000),
            ("sigma", asked.sigma or 0, 0, 255),
            ("solverSteps", asked.solverSteps or 1, 1, LARGEST_DEPTH),
        ):
            if not low <= value <= high:
                raise Refused(400, f"{name} is {value}; this server takes {low} to {high}")
        if asked.fill and model.task != "generation":
            raise Refused(400, f"the model {model.name} fills nothing in")
        return model

    def __call__(self, asked: Asked, upload: bytes, watch: Stopwatch) -> Answer:
        """Computes a request.

        Raises:
            Refused: for an upload that is not a usable picture, arguments that do not fit the model, and if a later
                request has come.
        """
        model, started = self.check(asked), time.perf_counter()
        watch()
        watch.evaluations = 0
        try:
            generates = model.task == "generation"
            pixels = (
                self._make(model, asked, upload, watch) if generates else self._restore(model, asked, upload, watch)
            )
        except Unreadable as error:
            reason = str(error).partition(";")[0]  # what follows is advice for the command line
            raise Refused(400, f"the upload cannot be used as a picture: {reason}") from error
        except (InputError, runtime.ExportedModelError) as error:
            raise Refused(400, first_line(error)) from error
        milliseconds = (time.perf_counter() - started) * 1000
        return Answer(_png(pixels), watch.evaluations, milliseconds)

    def _make(self, model: AppModel, asked: Asked, upload: bytes, watch: Stopwatch) -> np.ndarray:
        loaded: runtime.ExportedModel = self._generator(model.name)
        channels, height, width = loaded.image_shape
        steps = runtime.number_of_steps(loaded, asked.steps)
        about: Json = {
            "steps": steps,
            "seed": asked.seed,
            "class_label": asked.label,
            "prompt": asked.prompt if loaded.takes_text else None,
            "negative_prompt": asked.negative if loaded.takes_text else None,
            "guidance_scale": asked.scale,
            "on_step": watch,
        }
        watch.each = 2 if loaded.can_be_guided and asked.scale != 1 else 1
        if asked.solverSteps is not None:
            if not any(entry["name"] == "num_solver_steps" for entry in loaded.inputs):
                raise Refused(400, f"the model {model.name} has a fixed number of solver steps")
            about["solver_steps"] = asked.solverSteps
        if not upload:
            if asked.fill:
                raise Refused(400, "there is no picture to fill in")
            return runtime.to_pixels(runtime.generate(loaded, 1, **about))[0]
        opened = load_image(upload, height * width * LARGEST_START**2).convert("RGBA")
        values = np.asarray(opened, np.float32).transpose(2, 0, 1)[None] / 255
        colours, alpha = values[:, :3], values[:, 3:]
        if not asked.fill:
            colours = colours * alpha + 1 - alpha
        if channels == 1:
            colours = (colours * np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]).sum(1, keepdims=True)
        if asked.fill:
            return runtime.to_pixels(
                inpaint(loaded, colours.astype(np.float32), alpha[0, 0] < 0.5, repeats=asked.repeats, **about)
            )[0]
        return runtime.to_pixels(runtime.generate(loaded, 1, image=colours, strength=asked.strength, **about))[0]

    def _load_restorer(self, name: str) -> Any:
        from continuous_unet.tasks.loading import load_restorer

        model = self.models[name]
        if model.folder == Path(model.source):
            raise Refused(400, f"{name} is an export, which cannot restore here; start cunet app with its run or model")
        return load_restorer(model.source, model.task)

    def _restore(self, model: AppModel, asked: Asked, upload: bytes, watch: Stopwatch) -> np.ndarray:
        from continuous_unet.tasks.denoise.options import DenoiseOptions
        from continuous_unet.tasks.denoise.run import denoise_photograph
        from continuous_unet.tasks.upscale.options import UpscaleOptions
        from continuous_unet.tasks.upscale.run import upscale_photograph

        if not upload:
            raise Refused(400, "there is no picture to restore")
        scale = int(model.info["options"].get("scale", 1))
        photograph = read_photograph(upload, self.options.max_pixels // scale**2)
        restorer = self._restorer(model.name)
        if model.task == "denoise":
            how = DenoiseOptions(sigma="auto" if asked.sigma is None else str(asked.sigma), tile=256)
            return denoise_photograph(restorer, how, photograph, watch)[0].pixels
        larger = UpscaleOptions(scale=scale)
        return upscale_photograph(restorer, larger, photograph, watch)[0].pixels


def _png(pixels: np.ndarray) -> bytes:
    if pixels.dtype == np.uint16:
        pixels = (pixels // 257).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()
