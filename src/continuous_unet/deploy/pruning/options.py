"""What can be asked of pruning. Imports no torch: `cunet --help` reads it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import folder_to_make

REPORT = "prune.json"


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class PruneOptions:
    """Options of `prune_model` and of `cunet prune`; `validate` says what is wrong."""

    data: str = _option("", "images as the model was trained on, to rank channels, fine-tune and validate with")
    output: str = _option("", "a new folder for the pruned model, its fine-tuning run and prune.json")
    ratio: float = _option(0.3, "share of the channels to remove on every level, and inside the fields")
    importance: Literal["taylor", "magnitude", "random"] = _option(
        "taylor", "what ranks channels: the change of the loss over the timesteps; to compare with: weights, chance"
    )
    importance_images: int = _option(1024, "images, each at its own timestep, that the loss is taken on")
    steps: int = _option(2000, "updates of the weights after pruning; 0 leaves them as pruned")
    batch_size: int = _option(32, "images per step")
    learning_rate: float = _option(1e-3, "peak learning rate of the fine-tuning")
    num_validation: int | None = _option(
        None, "images held out to measure on (as the model's run had, or 256; never more than half)"
    )
    seed: int | None = _option(None, "seed of everything random (the model's run's, or 0)")
    checkpoint_every: int = _option(500, "steps between checkpoints of the fine-tuning")
    device: Literal["cpu", "cuda", "mps"] | None = _option(None, "where to compute; the best there is if left out")
    overwrite: bool = _option(False, "replace an earlier result in --output")

    def validate(self) -> "PruneOptions":
        for name in ("data", "output"):
            if not getattr(self, name):
                raise InputError(f"--{name} is missing: {type(self).__dataclass_fields__[name].metadata['help']}")
        if not 0 < self.ratio < 1:
            raise InputError(f"--ratio {self.ratio} must lie between 0 and 1: it is the share of channels to remove")
        for name, least in (("importance_images", 32), ("batch_size", 1), ("checkpoint_every", 1), ("steps", 0),
                            ("num_validation", 1)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} {value} must be at least {least}")
        if not 0 < self.learning_rate <= 1e6:
            raise InputError(f"--learning-rate {self.learning_rate} must be positive, and at most 1e6")
        return self

    def check_output(self) -> Path:
        """The folder to make.

        Raises:
            InputError: if something is there that must not be replaced.
        """
        go_on = "go on with its fine-tuning by --resume, "
        return folder_to_make(self.output, REPORT, "pruned model", overwrite=self.overwrite, or_else=go_on)
