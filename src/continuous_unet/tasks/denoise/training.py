"""Noise out of images: the model predicts the noise, as DnCNN does (Zhang et al. 2017, arXiv 1608.03981)."""

from typing import Any

from torch import Tensor

from continuous_unet.tasks.base import RestorationTask
from continuous_unet.tasks.denoise.pipeline import DenoisingPipeline, remove_noise
from continuous_unet.training.config import sigma_range


class DenoiseTask(RestorationTask):
    """White Gaussian noise of every strength between two bounds, uniformly; the noisy image is not clipped."""

    def loss(self, model: Any, clean: Tensor, noise: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        return self.deviation(self.restored(model, clean, noise, timesteps)[1] - clean)

    def restored(self, model: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        low, high = sigma_range(self.config.sigma)
        sigmas = low + (high - low) * (timesteps + 0.5) / self.config.num_train_timesteps
        noisy = clean + sigmas[:, None, None, None] * 2 / 255 * noise
        return noisy, remove_noise(model, noisy, sigmas if self.config.sigma_conditioned else None)

    def pipeline(self, model: Any) -> DenoisingPipeline:
        low, high = sigma_range(self.config.sigma)
        return DenoisingPipeline(model, sigma_min=low, sigma_max=high, sigma_conditioned=self.config.sigma_conditioned)

    def usage(self, run: str) -> str:
        return f"cunet denoise photo.png --model {run} --output denoised.png"
