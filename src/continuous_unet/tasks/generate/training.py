"""Trains the diffusion model itself, which makes images from noise."""

import math

from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss

from continuous_unet.images.grids import make_grid
from continuous_unet.tasks.base import PictureContext, StepContext, Task
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline, gather_images, generate_share
from continuous_unet.tasks.network import Network

BATCH = 16
"""Number of samples of a picture that are made at a time."""


class GenerateTask(Task[GenerateTraining]):
    """Learns to predict the noise, `v` or the image, as the process says, at every time."""

    @property
    def class_conditional(self) -> bool:
        return self.options.class_conditional

    def loss(self, step: StepContext, weighted: bool = True) -> Tensor:
        """Returns the mean squared error of each prediction, `(B,)`, times the weights of the process if `weighted`."""
        noised = step.process.add_noise(step.clean, step.noise, step.times)
        prediction = step.model(noised.x_t, step.times, class_labels=step.labels).sample
        error = mse_loss(prediction.float(), noised.target.float(), reduction="none").flatten(1).mean(dim=1)
        return error * noised.weight if weighted and noised.weight is not None else error

    def error(self, step: StepContext) -> Tensor:
        return self.loss(step, weighted=False)

    def picture(self, context: PictureContext) -> Image.Image:
        """Returns samples by DDIM, with the same seeds each time; with a row for each class where there are classes."""
        pipeline = DiffusionSamplingPipeline(context.model, self.process.make_sampler("ddim"))
        pipeline.set_progress_bar_config(disable=True)
        labels = [None] if context.num_classes is None else list(range(context.num_classes))
        share = math.ceil(self.num_samples / len(labels))
        jobs = [
            (label, range(start, min(start + BATCH, (number + 1) * share, self.num_samples)))
            for number, label in enumerate(labels)
            for start in range(number * share, min((number + 1) * share, self.num_samples), BATCH)
        ]
        options = {"seed": self.seed, "num_inference_steps": self.sampling_steps}
        made = generate_share(pipeline, jobs, processes=context.processes, stop=context.stop, **options)
        return make_grid(gather_images(made, context.processes), columns=share if len(labels) > 1 else None)

    def pipeline(self, model: Network) -> DiffusionSamplingPipeline:
        return DiffusionSamplingPipeline(model, self.process.scheduler)

    def usage(self, run: str) -> str:
        return f"cunet sample {run} --num 16 --steps 50 --output samples.png"
