"""The schedulers that a trained model can be sampled with, by the names that the command line takes.

They come from diffusers. The settings here make each of them do its best with few steps.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from continuous_unet.base.errors import InputError

_TRAILING = {"timestep_spacing": "trailing"}  # starts at pure noise, where the model was trained to start
SCHEDULERS: dict[str, tuple[str, Mapping[str, object]]] = {
    "ddpm": ("DDPMScheduler", _TRAILING),
    "ddim": ("DDIMScheduler", _TRAILING),
    "dpm++": ("DPMSolverMultistepScheduler", {**_TRAILING, "final_sigmas_type": "zero"}),
    "unipc": ("UniPCMultistepScheduler", {**_TRAILING, "final_sigmas_type": "zero"}),
    "euler": ("EulerDiscreteScheduler", _TRAILING),
}
"""Name: class in `diffusers`, and settings that override those of the training scheduler."""


def make_scheduler(name: str, config: Mapping[str, object]) -> Any:
    """Returns a sampling scheduler for the configuration of the scheduler that the model was trained with.

    Args:
        name: a key of `SCHEDULERS`.
        config: the `config` of that scheduler, whose betas, prediction type and so on are taken over.

    Raises:
        InputError: for an unknown name.
    """
    if name not in SCHEDULERS:
        raise InputError(f"scheduler {name!r} is unknown; expected one of {', '.join(SCHEDULERS)}")
    class_name, settings = SCHEDULERS[name]
    return getattr(importlib.import_module("diffusers"), class_name).from_config(config, **settings)
