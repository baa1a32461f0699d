"""Trains an upscaler: diffusion of the residual, given the enlarged image, and its mean in one evaluation."""

from typing import Any

import torch
from torch import Tensor

from continuous_unet.diffusion.options import ProcessOptions, VariancePreservingOptions
from continuous_unet.diffusion.process import Process
from continuous_unet.images.ranges import to_model_range, to_unit_range
from continuous_unet.images.resampling import degraded
from continuous_unet.tasks.base import RestorationTask, StepContext
from continuous_unet.tasks.depths import Attempt
from continuous_unet.tasks.network import Network
from continuous_unet.tasks.upscale.options import RESIDUAL_SCALE, UpscaleTraining
from continuous_unet.tasks.upscale.pipeline import SuperResolutionPipeline, predict_residual


class UpscaleTask(RestorationTask[UpscaleTraining]):
    """Diffuses `residual = RESIDUAL_SCALE (image - enlarged)` and gives the model the enlarged image too (SR3).

    At the last timestep nothing of the residual is left (zero terminal SNR, arXiv 2305.08891), so the optimal
    prediction there is the mean residual. A fixed fraction of each batch is trained on exactly this case, with the
    noise set to zero; at inference it gives the highest PSNR in one evaluation.
    """

    @classmethod
    def make_process(cls, options: ProcessOptions) -> Process:
        assert isinstance(options, VariancePreservingOptions)  # as `check_process` of the options says
        return options.make(default_objective="v_prediction", zero_terminal_snr=True)

    def model_arguments(self, channels: int, preset: str) -> dict[str, Any]:
        """Returns arguments of a model with twice the channels as input: diffused residual and enlarged image."""
        # the blocks of a restorer run at the resolution of the small image
        patch = {"patch_size": self.options.scale} if preset == "restorer" else {}
        return {"in_channels": 2 * channels, "out_channels": channels, **patch}

    def attempt(self, step: StepContext) -> Attempt:
        diffused_share = 1 - self.options.regression_share
        count = step.process.num_train_timesteps
        enlarged, residual = self._residual(step)
        in_one = step.times >= diffused_share * count
        # the timesteps that are left over spread over the whole range again
        spread = (step.times / max(diffused_share, 1e-9)).long().clamp(max=count - 1)
        times = torch.where(in_one, count - 1, spread)
        noised = step.process.add_noise(residual, step.noise * ~in_one[:, None, None, None], times)
        prediction = step.model(torch.cat([noised.x_t, enlarged], dim=1), times).sample
        return Attempt(prediction, noised.target)

    def restored(self, step: StepContext) -> tuple[Tensor, Tensor]:
        """Returns the answer in one evaluation; the noise decides only the JPEG qualities, and the times nothing."""
        enlarged, _ = self._residual(step)
        return enlarged, enlarged + predict_residual(step.model, step.process, enlarged)

    def _residual(self, step: StepContext) -> tuple[Tensor, Tensor]:
        bounds, share = self.options.qualities(), self.options.jpeg_share
        qualities: list[int | None] | None = None
        if bounds is not None and share > 0:
            # uniform numbers from the draws of the step: one pixel of the noise, by its quantile
            quantiles = torch.special.ndtr(step.noise[:, 0, 0, 0].double()) / share
            drawn = (bounds[0] + (bounds[1] - bounds[0]) * quantiles).round().int().tolist()
            qualities = [quality if part else None for quality, part in zip(drawn, quantiles <= 1, strict=True)]
        enlarged = to_model_range(degraded(to_unit_range(step.clean), self.options.scale, qualities)[1])
        return enlarged, RESIDUAL_SCALE * (step.clean - enlarged)

    def pipeline(self, model: Network) -> SuperResolutionPipeline:
        return SuperResolutionPipeline(
            model, self.process.scheduler, self.options.scale, can_sample=self.options.regression_share < 1
        )

    def usage(self, run: str) -> str:
        return f"cunet upscale photo.png --model {run} --output large.png"
