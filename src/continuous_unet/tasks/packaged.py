"""The models that come with the package: found by name, and listed with what their cards say. Imports no torch.

Each is a folder of `pretrained/`, laid out as a run or as a saved model, with a card `README.md`. A card begins with
the metadata of a Hugging Face model card, in YAML: `license`, `datasets` and the figures of `model-index`.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.base.leaves import nearest
from continuous_unet.base.options import Options, option
from continuous_unet.base.results import CallResult, Json
from continuous_unet.base.signals import StopRequest

Name = str | os.PathLike[str]
FOLDER = Path(__file__).parents[1] / "pretrained"
SHOWN_FIGURES = 2
"""The number of figures of a model in the list; all are in its card."""
_PURPOSES = {"DenoisingPipeline": "denoise", "SuperResolutionPipeline": "upscale"}


def pretrained_models() -> list[str]:
    """Returns the names of the models that come with the package."""
    indexes = (*FOLDER.glob("*/model_index.json"), *FOLDER.glob("*/model/model_index.json"))
    return sorted({path.relative_to(FOLDER).parts[0] for path in indexes})


def is_packaged(name: Name) -> bool:
    """Returns whether a name stands for a model of the package. A file or folder of that name takes precedence."""
    return not Path(name).exists() and str(name) in pretrained_models()


def is_model(name: Name) -> bool:
    """Returns whether there is a file or folder, or a model of the package, of a name."""
    return Path(name).exists() or is_packaged(name)


def find_model(name: Name) -> Path:
    """Returns the folder that a name of a model stands for: a path, or the name of a model of the package.

    Raises:
        InputError: if there is neither.
    """
    if is_packaged(name):
        return FOLDER / name
    if not Path(name).exists():
        known = pretrained_models()
        packaged = f"one of the package ({', '.join(known) or 'none'})"
        expected = f"a run folder of `cunet train`, a saved model, or {packaged}"
        raise InputError(f"{name} does not exist; expected {expected}{nearest(str(name), known)}")
    return Path(name)


def absolute_model(name: Name) -> str:
    """Returns the absolute path of a model; the name of one of the package, or of none, as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else str(name)


def refuse_packaged(name: Name) -> None:
    """Raises InputError for a model of the package, which is not to be changed."""
    if is_packaged(name):
        raise InputError(
            f"{name} comes with the package and is not changed; copy it first (cp -r {find_model(name)} my-{name})"
        )


@dataclass
class ModelsOptions(Options):
    """Options of `cunet models`."""

    name: str | None = option(
        None, "a model whose card is printed (default: a list of all)", positional=True, metavar="NAME"
    )


@dataclass(frozen=True)
class PackagedModel:
    """What is known of one model of the package."""

    name: str
    task: str
    channels: int
    sample_size: int | None
    """Side of the images that it makes; None for a model that takes any size."""
    classes: int
    """Number of classes that it can be asked for; 0 for none."""
    guidance_scale: float
    """The guidance scale of sampling if none is given; 1 is without guidance."""
    sampling_steps: tuple[int, ...]
    """The numbers of sampling steps that a distilled model takes; empty for other models."""
    parameters: int
    bytes: int
    license: str
    data: str
    figures: tuple[str, ...]

    def images(self) -> str:
        """Returns what its images are, in a few words."""
        kind = {1: "grey", 3: "colour"}.get(self.channels, f"{self.channels} channels")
        size = "any size" if self.sample_size is None else f"{self.sample_size}x{self.sample_size}"
        classes = f", {self.classes} classes" if self.classes else ""
        numbers = self.sampling_steps
        row = len(numbers) > 1 and list(numbers) == list(range(numbers[0], numbers[-1] + 1))
        shown = f"{numbers[0]} to {numbers[-1]}" if row else " or ".join(map(str, numbers))
        steps = f", {shown} steps" if numbers else ""
        guidance = f", guidance {self.guidance_scale:g}" if self.guidance_scale != 1 else ""
        return f"{size} {kind}{classes}{guidance}{steps}"


@dataclass
class ModelsResult(CallResult):
    """The models of the package, or the card of one."""

    models: list[PackagedModel]
    card: str | None = None

    def to_dict(self) -> Json:
        return {"models": [asdict(model) for model in self.models]} | ({} if self.card is None else {"card": self.card})

    def to_text(self) -> str:
        """Returns a line for each model, or the card."""
        if self.card is not None:
            return self.card.strip()
        rows = [("name", "task", "images", "parameters", "size", "license", "trained on", "figures")]
        for model in self.models:
            figures = "; ".join(model.figures[:SHOWN_FIGURES])
            size = f"{model.bytes / 1e6:.1f} MB"
            about = (f"{model.parameters:,}", size, model.license, model.data, figures)
            rows.append((model.name, model.task, model.images(), *about))
        return _aligned(rows)


def list_models(options: ModelsOptions, *, stop: StopRequest | None = None) -> ModelsResult:
    """Returns the models that come with the package, or one of them with its card.

    Args:
        options: which.
        stop: unused; reading takes milliseconds.

    Raises:
        InputError: for a name that is not one of the package.
    """
    options.validate()
    known = pretrained_models()
    if options.name is None:
        return ModelsResult([describe(name) for name in known])
    if options.name not in known:
        raise InputError(
            f"{options.name} is not a model of the package; expected one of {', '.join(known) or 'none'}"
            f"{nearest(options.name, known)}"
        )
    return ModelsResult([describe(options.name)], _card(options.name)[1])


def describe(name: str) -> PackagedModel:
    """Returns what is known of a model of the package, from its files; the weights are not read."""
    folder = FOLDER / name
    model = folder / "model" if (folder / "model").is_dir() else folder
    config, facts = _json(model / "unet" / "config.json"), _json(model / "continuous_unet.json")
    task = _PURPOSES.get(_json(model / "model_index.json").get("_class_name", ""), "generate")
    conditions, sampler = facts.get("conditions", {}), facts.get("sampler", {})
    classes = (config.get("num_class_embeds") or 0) - (conditions.get("null_class") is not None)
    known = _card(name)[0]
    return PackagedModel(
        name=name,
        task=task,
        channels=config["out_channels"],
        sample_size=config["sample_size"] if task == "generate" else None,
        classes=classes,
        guidance_scale=conditions.get("guidance_scale", 1.0),
        sampling_steps=tuple(map(len, sampler["times"])) if sampler.get("distilled") else (),
        parameters=sum(map(_parameters, model.rglob("*.safetensors"))),
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        license=str(known.get("license", "")),
        data=", ".join(map(str, known.get("datasets", []))),
        figures=tuple(_figures(known)),
    )


def _json(path: Path) -> Json:
    content: Json = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def _parameters(weights: Path) -> int:
    """Returns the number of values in a file of weights, by its header."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _card(name: str) -> tuple[Json, str]:
    """Returns the metadata and the text of a card; both may be empty."""
    path = FOLDER / name / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        return {}, text
    return yaml.safe_load(parts[1]), parts[2]


def _figures(card: Json) -> Iterable[str]:
    """Yields the figures of a card, such as `PSNR 28.85 dB (BSD68, sigma 25)`."""
    for model in card.get("model-index", []):
        for result in model["results"]:
            for metric in result["metrics"]:
                word, _, unit = metric["name"].partition(", ")
                yield f"{word} {metric['value']} {unit}".strip() + f" ({result['dataset']['name']})"


def _aligned(rows: list[tuple[Any, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
