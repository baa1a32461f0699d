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
    wanted = {
        words: (_plain(own.get(key)), _plain(arguments.get(key)))
        for key, words in {
            "sample_size": "the size of the images",
            "in_channels": "the number of input channels",
            "out_channels": "the number of output channels",
            "num_class_embeds": "the number of classes",
        }.items()
    }
    if pipeline.scheduler is not None:
        theirs, ours = process_of(pipeline.scheduler), task.process
        wanted["the objective"] = theirs.prediction_type, ours.prediction_type
        wanted["the noise schedule"] = theirs.describe()["alphas_cumprod"], ours.describe()["alphas_cumprod"]
    for words, (has, given) in wanted.items():
        if has != given:
            values = "" if isinstance(has, list) else f" ({has}, and here {given})"
            raise InputError(
                f"the model {name} to start from differs from this run in {words}{values}; make them alike"
            )
    return pipeline.unet


def _plain(value: Any) -> Any:
    """Returns the lists of a saved configuration as tuples."""
    return tuple(value) if isinstance(value, list) else value
