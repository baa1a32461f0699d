"""Trains a denoiser: the model predicts the noise, as DnCNN does (Zhang et al. 2017, arXiv 1608.03981)."""

from torch import Tensor

from continuous_unet.tasks.base import RestorationTask, StepContext
from continuous_unet.tasks.denoise.options import DenoiseTraining
from continuous_unet.tasks.denoise.pipeline import DenoisingPipeline
from continuous_unet.tasks.depths import Attempt
from continuous_unet.tasks.network import Network
from continuous_unet.tasks.restoration import evaluated


class DenoiseTask(RestorationTask[DenoiseTraining]):
    """Learns to remove white Gaussian noise, uniformly of every strength between two bounds and not clipped."""

    capturable = True

    def attempt(self, step: StepContext) -> Attempt:
        return Attempt(self.restored(step)[1], step.clean)

    def restored(self, step: StepContext) -> tuple[Tensor, Tensor]:
        low, high = self.options.sigmas()
        sigmas = low + (high - low) * (step.times + 0.5) / step.process.num_train_timesteps
        noisy = step.clean + sigmas[:, None, None, None] * 2 / 255 * step.noise
        return noisy, noisy - evaluated(step.model, noisy, sigmas if self.options.sigma_conditioned else 0)

    def pipeline(self, model: Network) -> DenoisingPipeline:
        low, high = self.options.sigmas()
        return DenoisingPipeline(model, sigma_min=low, sigma_max=high, sigma_conditioned=self.options.sigma_conditioned)

    def usage(self, run: str) -> str:
        return f"cunet denoise photo.png --model {run} --output denoised.png"
