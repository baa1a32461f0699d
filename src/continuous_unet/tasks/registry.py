"""What a run can learn. A new task is a class in a file here, an entry in `TASKS`, and one in the list of its test."""

from continuous_unet.tasks.base import RestorationTask, TrainingTask
from continuous_unet.tasks.denoise.training import DenoiseTask
from continuous_unet.tasks.generate.training import GenerationTask
from continuous_unet.tasks.upscale.training import SuperResolutionTask
from continuous_unet.training.config import TrainConfig

__all__ = ["TASKS", "RestorationTask", "TrainingTask", "make_task"]

TASKS: dict[str, type[TrainingTask]] = {
    "generation": GenerationTask,
    "denoise": DenoiseTask,
    "super-resolution": SuperResolutionTask,
}
"""By the name that `TrainConfig.task` takes."""


def make_task(config: TrainConfig) -> TrainingTask:
    """The task of a run."""
    return TASKS[config.task](config)
