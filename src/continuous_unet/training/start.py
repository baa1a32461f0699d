"""A saved model to start a run from, in place of a preset's new one."""

from typing import Any

from torch import nn

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.process import process_of
from continuous_unet.tasks.base import Task
from continuous_unet.tasks.loading import load_model


def load_start(name: str, task: Task, arguments: dict[str, Any]) -> nn.Module:
    """Returns the U-Net of a run or saved model, to be trained further.

    Args:
        name: what `load_model` takes.
        task: of the new run.
        arguments: constructor arguments that the run asks for: size, channels, classes.

    Raises:
        InputError: if it cannot be loaded, or was made for other images, classes or another noise process.
    """
    pipeline = load_model(name)
    own = pipeline.unet.config
    wanted = {key: (own.get(key), value) for key, value in {"num_class_embeds": None, **arguments}.items()}
    if pipeline.scheduler is not None:
        theirs, ours = process_of(pipeline.scheduler), task.process
        for key in ("name", "prediction_type", "num_train_timesteps"):
            wanted[key] = getattr(theirs, key), getattr(ours, key)
        wanted["the noise schedule"] = theirs.describe()["alphas_cumprod"], ours.describe()["alphas_cumprod"]
    for key, (has, given) in wanted.items():
        if has != given:
            raise InputError(f"the model {name} to start from has {key} {has}, and this run {given}; make them alike")
    return pipeline.unet
