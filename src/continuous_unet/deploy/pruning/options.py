"""The options of pruning. Imports no torch: `cunet --help` reads it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, option
from continuous_unet.base.results import Json
from continuous_unet.deploy.options import model_argument

REPORT = "prune.json"


@dataclass
class PruneOptions(Options):
    """Options of `prune`."""

    model: str = model_argument("run folder of `cunet train`, saved model, or model of the package", "RUN_OR_MODEL")
    data: str = option(
        "", "images like those that the model was trained on: to rank channels, fine-tune and validate", required=True
    )
    output: str = option("", "new folder for the pruned model, its fine-tuning run and prune.json", required=True)
    ratio: float = option(
        0.3, "fraction of the channels to remove on every level and inside the fields", above=0, below=1
    )
    importance: Literal["taylor", "magnitude", "random"] = option(
        "taylor", "what ranks the channels: the change of the loss without them; or, to compare with, weights or chance"
    )
    importance_images: int = option(
        1024, "number of images that the loss is measured on; each is noised to a different timestep", at_least=32
    )
    steps: int = option(2000, "number of training steps after pruning; 0 leaves the weights as pruned", at_least=0)
    batch_size: int = option(32, "number of images in a training step", at_least=1)
    learning_rate: float = option(1e-3, "peak learning rate of the fine-tuning", above=0, at_most=1e6)
    num_validation: int | None = option(
        None,
        "number of images to measure on, at most half of all; that of the model's run, or 256, if left out",
        at_least=1,
    )
    seed: int | None = option(None, "seed of everything random; that of the model's run, or 0, if left out")
    checkpoint_every: int = option(500, "number of training steps between checkpoints of the fine-tuning", at_least=1)
    device: Literal["cpu", "cuda", "mps"] | None = option(
        None, "where to compute; the best device of this machine if left out"
    )
    overwrite: bool = option(False, "replace an earlier result in --output")


def read_report(folder: str | Path) -> Json:
    """Returns the contents of `prune.json`.

    Raises:
        InputError: if it is missing or damaged.
    """
    path = Path(folder) / REPORT
    if not path.is_file():
        raise InputError(f"{folder} holds no pruned model to continue with; start without --resume")
    try:
        report: Json = json.loads(path.read_text(encoding="utf-8"))
        report["options"]["steps"], report["training"]["seed"], report["smallest_image"], report["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}); prune again") from error
    return report


def begun_options(output: str) -> Json:
    """Returns the options that the fine-tuning in a folder was begun with, to resume it."""
    report = read_report(output)
    return {"model": report["model"], **report["options"]}
