"""Trains the diffusion model itself, which makes images from noise."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss

from continuous_unet.base.errors import InputError
from continuous_unet.data.report import DatasetReport
from continuous_unet.tasks.base import PictureContext, StepContext, Task
from continuous_unet.tasks.depths import Attempt, loss_over_depths
from continuous_unet.tasks.facts import ConditionFacts, Facts
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline, gather_images, generate_share
from continuous_unet.tasks.generate.rows import Row, class_rows, jobs_of, picture_of
from continuous_unet.tasks.network import Network

BATCH = 16
"""Number of samples of a picture that are made at a time."""


class GenerateTask(Task[GenerateTraining]):
    """Learns to predict the noise, `v` or the image, as the process says, at every time."""

    class_names: tuple[str, ...] = ()
    """The names of the classes of the data, by number."""

    @property
    def class_conditional(self) -> bool:
        return self.options.class_conditional

    @property
    def condition_dropout(self) -> float:
        return self.options.condition_dropout if self.class_conditional else 0.0

    def use_data(self, report: DatasetReport) -> None:
        if not self.class_conditional:
            return
        if not report.class_names:
            raise InputError(f"--class-conditional needs data with classes, and {report.source} has none")
        self.class_names = tuple(report.class_names)

    def model_arguments(self, channels: int, preset: str) -> dict[str, Any]:
        """Adds a row of the class embedding for each class, and a last one for "any class" if classes are dropped."""
        arguments = super().model_arguments(channels, preset)
        if self.class_conditional:
            arguments["num_class_embeds"] = len(self.class_names) + (self.condition_dropout > 0)
        return arguments

    def conditions(
        self, batch: Mapping[str, Any], device: torch.device, draws: Tensor | None = None
    ) -> dict[str, Tensor]:
        if not self.class_conditional:
            return {}
        labels = batch["label"].to(device)
        if draws is not None:
            labels = labels.masked_fill(draws < self.condition_dropout, len(self.class_names))
        return {"class_labels": labels}

    def trial_conditions(self) -> dict[str, Tensor]:
        return {"class_labels": torch.zeros(1, dtype=torch.long)} if self.class_conditional else {}

    def facts(self) -> Facts:
        """Returns what is saved with the model."""
        if not self.class_conditional:
            return Facts()
        null = len(self.class_names) if self.condition_dropout > 0 else None
        return Facts(conditions=ConditionFacts(self.class_names, null))

    def loss(self, step: StepContext) -> Tensor:
        """Returns the mean squared error of each prediction, `(B,)`, times the weights of the process."""
        return loss_over_depths(step, self._attempt, _mean_squares)

    def error(self, step: StepContext) -> Tensor:
        attempt = self._attempt(step)
        return _mean_squares(attempt.prediction, attempt.target)

    def _attempt(self, step: StepContext) -> Attempt:
        noised = step.process.add_noise(step.clean, step.noise, step.times)
        prediction = step.model(noised.x_t, step.times, **step.conditions).sample
        return Attempt(prediction, noised.target, noised.weight)

    def picture(self, context: PictureContext) -> Image.Image:
        """Returns samples, with the same seeds each time; with a row for each class where there are classes."""
        pipeline = DiffusionSamplingPipeline(context.model, self.process.make_sampler(None), self.facts())
        pipeline.set_progress_bar_config(disable=True)
        rows = self._rows()[: self.num_samples]
        number = math.ceil(self.num_samples / len(rows))
        options = {"seed": self.seed, "num_inference_steps": self.sampling_steps, "guidance_scale": 1.0}
        jobs = jobs_of(rows, number, BATCH)
        made = generate_share(pipeline, jobs, processes=context.processes, stop=context.stop, **options)
        return picture_of(rows, gather_images(made, context.processes))

    def _rows(self) -> list[Row]:
        """Returns what a picture of the progress shows: a row for each class where there are classes."""
        known = self.facts().conditions
        if not self.class_conditional:
            return [Row("", {})]
        rows = len(self.class_names) + (known.null_class is not None)
        return class_rows(range(len(self.class_names)), rows, known)

    def pipeline(self, model: Network) -> DiffusionSamplingPipeline:
        return DiffusionSamplingPipeline(model, self.process.scheduler, self.facts())

    def usage(self, run: str) -> str:
        return f"cunet sample {run} --num 16 --steps 50 --output samples.png"


def _mean_squares(predicted: Tensor, target: Tensor) -> Tensor:
    return mse_loss(predicted.float(), target.float(), reduction="none").flatten(1).mean(dim=1)
