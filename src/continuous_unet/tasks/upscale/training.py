"""Large images from small ones: diffusion of the residual, given the enlarged image, and its mean in one evaluation."""

from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from continuous_unet.diffusion.losses import prediction_target
from continuous_unet.diffusion.process import process_of
from continuous_unet.images.resampling import degraded
from continuous_unet.tasks.base import RestorationTask
from continuous_unet.tasks.upscale.pipeline import RESIDUAL_SCALE, SuperResolutionPipeline, predict_residual


class SuperResolutionTask(RestorationTask):
    """Diffuses `residual = RESIDUAL_SCALE (image - enlarged)` beside the enlarged image (SR3, arXiv 2104.07636).

    At the last timestep nothing of the residual is left (zero terminal SNR, arXiv 2305.08891), so that the best answer
    there is the mean of the residual whatever the noise says: it is asked with zeros in place of noise, for a fixed
    share of the images, and is the answer of highest PSNR in one evaluation.
    """

    def make_scheduler(self) -> Any:
        return DDPMScheduler(
            num_train_timesteps=self.config.num_train_timesteps,
            beta_schedule=self.config.noise_schedule,
            prediction_type=self.config.objective or "v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=False,
        )

    def model_arguments(self, channels: int) -> dict[str, Any]:
        """Twice the channels go in: the diffused residual and the enlarged image."""
        arguments: dict[str, Any] = {"in_channels": 2 * channels, "out_channels": channels}
        if self.config.preset == "restorer":
            arguments["patch_size"] = self.config.scale  # the blocks run at the resolution of the small image
        return arguments

    def loss(self, model: Any, clean: Tensor, noise: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        small_share = 1 - self.config.regression_share
        count = self.config.num_train_timesteps
        enlarged, residual = self._residual(clean)
        in_one = timesteps >= small_share * count
        # the timesteps that are left over spread over the whole range again
        spread = (timesteps / max(small_share, 1e-9)).long().clamp(max=count - 1)
        times = torch.where(in_one, count - 1, spread)
        noise = noise * ~in_one[:, None, None, None]
        noisy = self.scheduler.add_noise(residual, noise, times)
        target = prediction_target(self.scheduler, residual, noise, times)
        prediction = model(torch.cat([noisy, enlarged], dim=1), times).sample
        return self.deviation(prediction - target)

    def restored(self, model: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """By the answer in one evaluation; noise and timesteps do not matter."""
        enlarged, _ = self._residual(clean)
        return enlarged, enlarged + predict_residual(model, process_of(self.scheduler), enlarged)

    def _residual(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        enlarged = degraded(clean / 2 + 0.5, self.config.scale)[1] * 2 - 1
        return enlarged, RESIDUAL_SCALE * (clean - enlarged)

    def pipeline(self, model: Any) -> SuperResolutionPipeline:
        return SuperResolutionPipeline(
            model, self.scheduler, scale=self.config.scale, can_sample=self.config.regression_share < 1
        )

    def usage(self, run: str) -> str:
        return f"cunet upscale photo.png --model {run} --output large.png"
