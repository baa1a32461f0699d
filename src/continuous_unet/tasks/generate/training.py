"""Images from noise: the diffusion model itself."""

from typing import Any

from PIL import Image
from torch import Tensor

from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import StopRequest
from continuous_unet.diffusion.losses import diffusion_loss
from continuous_unet.tasks.base import TrainingTask
from continuous_unet.tasks.generate.grids import sample_grid
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline


class GenerationTask(TrainingTask):
    """Learns to predict the noise (or `v`, or the image) at every timestep."""

    def loss(self, model: Any, clean: Tensor, noise: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        return diffusion_loss(model, self.scheduler, clean, noise, timesteps, labels, self.config.min_snr_gamma)

    def error(self, model: Any, clean: Tensor, noise: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        """Of the prediction, without min-SNR weights."""
        return diffusion_loss(model, self.scheduler, clean, noise, timesteps, labels)

    def grid(
        self, model: Any, images: Any, num_classes: int | None, processes: Processes, stop: StopRequest
    ) -> Image.Image:
        """Samples, the same seeds each time."""
        return sample_grid(
            model,
            self.scheduler,
            num_images=self.config.num_samples,
            num_inference_steps=self.config.sample_steps,
            seed=self.config.seed,
            num_classes=num_classes,
            processes=processes,
            stop=stop,
        )

    def pipeline(self, model: Any) -> DiffusionSamplingPipeline:
        return DiffusionSamplingPipeline(model, self.scheduler)

    def usage(self, run: str) -> str:
        return f"cunet sample {run} --num 16 --steps 50 --output samples.png"
