"""Images from noise: the diffusion model itself."""

from PIL import Image
from torch import Tensor, nn

from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import StopRequest
from continuous_unet.data import TrainingData
from continuous_unet.diffusion.process import prediction_error
from continuous_unet.tasks.base import StepContext, Task
from continuous_unet.tasks.generate.grids import sample_grid
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline


class GenerateTask(Task[GenerateTraining]):
    """Learns to predict what the process asks for (noise, `v` or the image) at every time."""

    name = "generate"

    @property
    def class_conditional(self) -> bool:  # type: ignore[override]  # read-only is enough
        """Whether the model is given the classes of the images."""
        return self.options.class_conditional

    def loss(self, step: StepContext) -> Tensor:
        return self._error(step, weighted=True)

    def error(self, step: StepContext) -> Tensor:
        """Returns the error of the prediction, without min-SNR weights."""
        return self._error(step, weighted=False)

    def _error(self, step: StepContext, weighted: bool) -> Tensor:
        return prediction_error(
            step.model, step.process, step.clean, step.noise, step.times, step.labels, weighted=weighted
        )

    def picture(
        self,
        model: nn.Module,
        images: TrainingData,
        num_classes: int | None,
        processes: Processes,
        stop: StopRequest,
    ) -> Image.Image:
        """Returns samples, with the same seeds each time."""
        return sample_grid(
            model,
            self.process,
            num_images=self.num_samples,
            num_inference_steps=self.sampling_steps,
            seed=self.seed,
            num_classes=num_classes,
            processes=processes,
            stop=stop,
        )

    def pipeline(self, model: nn.Module) -> DiffusionSamplingPipeline:
        return DiffusionSamplingPipeline(model, self.process.scheduler)

    def usage(self, run: str) -> str:
        return f"cunet sample {run} --num 16 --steps 50 --output samples.png"
