"""The one table of tasks: their names, their options, and where their parts live.

A new task is a folder here, an entry in `TASKS`, and one in the list of its test. Imports no torch: the command line
reads it to parse.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from continuous_unet.tasks.codec.options import CodecTraining
from continuous_unet.tasks.denoise.options import DenoiseTraining
from continuous_unet.tasks.distill.options import DistillTraining
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.plan.options import PlanTraining
from continuous_unet.tasks.training_options import TrainingOptions
from continuous_unet.tasks.upscale.options import RESIDUAL_SCALE, UpscaleTraining
from continuous_unet.tasks.video.options import VideoTraining

if TYPE_CHECKING:
    from continuous_unet.tasks.base import Task


@dataclass(frozen=True)
class TaskEntry:
    """One task. Places are written `module:name` and imported when they are first needed."""

    pipeline: str = ""
    """The pipeline that a trained model is saved and used as; empty if it is part of those of other tasks."""
    models_of: tuple[str, ...] = ()
    """Tasks whose models it can use."""
    old_name: str | None = None
    """The name in version 0.1.0, which is still accepted."""
    training: type[TrainingOptions] | None = None
    """Options of training; None for a task that uses models of another."""
    task: str = ""
    """The `Task` that training runs."""
    export: Mapping[str, object] = field(default_factory=dict)
    """What an exported model must know: entries of the pipeline's `config`, with their defaults."""

    def load_pipeline_class(self) -> Any:
        """Returns the pipeline class."""
        return _load(self.pipeline)

    def load_task(self) -> "type[Task]":
        """Returns the class that training runs."""
        return _load(self.task)


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"continuous_unet.tasks.{module}"), name)


TASKS = {
    "generate": TaskEntry(
        pipeline="generate.pipeline:DiffusionSamplingPipeline",
        models_of=("generate",),
        old_name="generation",
        training=GenerateTraining,
        task="generate.training:GenerateTask",
    ),
    "denoise": TaskEntry(
        pipeline="denoise.pipeline:DenoisingPipeline",
        models_of=("denoise", "generate"),
        training=DenoiseTraining,
        task="denoise.training:DenoiseTask",
        export={"sigma_conditioned": False},
    ),
    "upscale": TaskEntry(
        pipeline="upscale.pipeline:SuperResolutionPipeline",
        models_of=("upscale",),
        old_name="super-resolution",
        training=UpscaleTraining,
        task="upscale.training:UpscaleTask",
        export={"scale": 2, "residual_scale": RESIDUAL_SCALE},
    ),
    "codec": TaskEntry(training=CodecTraining, task="codec.training:CodecTask"),
    "distill": TaskEntry(
        pipeline="generate.pipeline:DiffusionSamplingPipeline",
        models_of=("generate",),
        training=DistillTraining,
        task="distill.training:DistillTask",
    ),
    "plan": TaskEntry(
        pipeline="plan.pipeline:PlanningPipeline",
        models_of=("plan",),
        training=PlanTraining,
        task="plan.training:PlanTask",
    ),
    "video": TaskEntry(
        pipeline="video.pipeline:VideoPipeline",
        models_of=("video",),
        training=VideoTraining,
        task="video.training:VideoTask",
    ),
    "inpaint": TaskEntry(pipeline="inpaint.pipeline:InpaintingPipeline", models_of=("generate",)),
}
"""By name, which is that of the verb and of the folder here."""
TRAINED = {name: entry for name, entry in TASKS.items() if entry.training is not None}
"""Those that `cunet train --task` takes."""
OLD_NAMES = {entry.old_name: name for name, entry in TASKS.items() if entry.old_name is not None}
"""From the names of version 0.1.0 to those of today."""
