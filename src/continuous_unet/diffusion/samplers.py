"""The schedulers that a trained model can be sampled with, by the names that the command line takes.

They come from diffusers: DDPM (arXiv 2006.11239), DDIM (2010.02502), DPM-Solver++ (2211.01095), UniPC (2302.04867), and
the methods of Euler and Heun (2206.00364). The settings here make each of them do its best with few steps. The first
one of a process is its default.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from continuous_unet.base.errors import InputError

_TRAILING = {"timestep_spacing": "trailing"}  # starts at pure noise, where the model was trained to start
Schedulers = Mapping[str, tuple[str, Mapping[str, object]]]
"""Name: class in `diffusers`, and settings that override those of the training scheduler."""
SCHEDULERS: Schedulers = {
    "ddim": ("DDIMScheduler", _TRAILING),
    "ddpm": ("DDPMScheduler", _TRAILING),
    "dpm++": ("DPMSolverMultistepScheduler", {**_TRAILING, "final_sigmas_type": "zero"}),
    "unipc": ("UniPCMultistepScheduler", {**_TRAILING, "final_sigmas_type": "zero"}),
    "euler": ("EulerDiscreteScheduler", _TRAILING),
}
_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "final_sigmas_type": "zero"}
FLOW_SCHEDULERS: Schedulers = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", _FLOW),
    "unipc": ("UniPCMultistepScheduler", _FLOW),
}


def make_scheduler(
    name: str | None, config: Mapping[str, object], table: Schedulers = SCHEDULERS, process: str = "variance-preserving"
) -> Any:
    """Returns a sampling scheduler for the configuration of the scheduler that the model was trained with.

    DDIM keeps its estimate of the image within `clip_sample_range`, but not its estimate of the noise, so that the two
    no longer make up the state. With many steps or strong guidance this adds up to wrong images. Only models that
    predict the noise need the limit, because their estimate of the image is divided by the signal's strength.

    Args:
        name: a key of the table; the first one if None.
        config: the `config` of that scheduler, whose betas, prediction type and so on are taken over.
        table: the schedulers that fit.
        process: the name of the process that they fit.

    Raises:
        InputError: for a name that is not in the table.
    """
    name = name or next(iter(table))
    if name not in table:
        choices = ", ".join(table)
        raise InputError(f"scheduler {name!r} does not fit the {process} process; expected one of {choices}")
    class_name, settings = table[name]
    if name == "ddim" and config.get("prediction_type", "epsilon") != "epsilon":
        settings = {**settings, "clip_sample": False}
    return getattr(importlib.import_module("diffusers"), class_name).from_config(config, **settings)


def set_timesteps(scheduler: Any, num_steps: int, device: object = None) -> None:
    """Prepares a scheduler for a number of sampling steps.

    The last step of diffusers' flow-matching Euler starts where almost no noise is left, and is wasted. Here its times
    are spread evenly from pure noise, so that the last step is as long as the others.
    """
    if type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
        scheduler.set_timesteps(sigmas=[1 - k / num_steps for k in range(num_steps)], device=device)
    else:
        scheduler.set_timesteps(num_steps, device=device)
