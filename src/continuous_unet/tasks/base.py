"""The contract of a training task. Everything that is the same for all tasks belongs to the trainer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import StopRequest
from continuous_unet.codecs.autoencoder import Autoencoder
from continuous_unet.data.loading import HeldOut, TrainingData
from continuous_unet.data.report import DatasetReport
from continuous_unet.diffusion.draws import Positions, Stream, normal
from continuous_unet.diffusion.options import ProcessOptions
from continuous_unet.diffusion.process import Process
from continuous_unet.images.grids import make_grid
from continuous_unet.images.ranges import to_unit_range
from continuous_unet.models.build import build_unet
from continuous_unet.tasks.depths import Attempt, Shallow, loss_over_depths
from continuous_unet.tasks.facts import Facts
from continuous_unet.tasks.loading import load_model
from continuous_unet.tasks.network import Network
from continuous_unet.tasks.training_options import RestorationTraining, TrainingOptions

Tokenise = Callable[[Sequence[str]], Mapping[str, Tensor]]
OwnData = tuple[TrainingData, HeldOut | None]
"""What to train on, and what is held out for validation."""
Chosen = TypeVar("Chosen", bound=TrainingOptions)


class Saved(Protocol):
    """What a run saves to be used: a pipeline, or another object that writes itself to a folder."""

    def save_pretrained(self, save_directory: Any, /) -> Any:
        """Writes the folder."""


@dataclass(frozen=True)
class StepContext:
    """What a task may use of one batch of B images.

    Every task gets the same random numbers, and decides how to use them. A denoiser takes the strength of the noise
    from the time.
    """

    model: Network
    process: Process
    clean: Tensor
    """Images `(B, C, H, W)` in [-1, 1]."""
    noise: Tensor
    """Standard normal noise of that shape."""
    times: Tensor
    """Times of the process `(B,)`."""
    conditions: Mapping[str, Tensor] = field(default_factory=dict)
    """What the model is asked for: keyword arguments of its call, empty for an unconditional model.

    The conditions that were dropped are already replaced by those for "anything".
    """
    step: int = 0
    """Number of training steps that were taken before."""
    shallow: Shallow | None = None
    """A further number of solver steps to train at, with elastic depth."""
    positions: Positions = ()
    """The places of the images in the data's sequence, which further random numbers may follow from."""
    teacher: Network | None = None
    """The model that the student learns from, in evaluation mode, for tasks that have a teacher."""


@dataclass(frozen=True)
class PictureContext:
    """What a task may use to show what a model can do."""

    model: Network
    """In evaluation mode."""
    images: Iterable[dict[str, Any]]
    """Held-out images if there are some, training images otherwise."""
    processes: Processes
    """The processes that share the work."""
    stop: StopRequest
    """Asked before every evaluation of the model."""


class Task(ABC, Generic[Chosen]):
    """What a model learns: its channels, loss and validation error, a picture of the progress, and what is saved.

    Args:
        options: the options of this task.
        process: the noise process, made by `make_process` or wrapped around a saved scheduler.
        seed: the seed of the run.
        num_samples: number of images in a picture of the progress.
        sampling_steps: number of sampling steps for each of them.
    """

    fit: ClassVar[str] = "crop"
    """How training images get their size unless the run says otherwise."""
    random_crop: ClassVar[bool] = False
    image_size: ClassVar[int | None] = None
    """Side of the training images unless the run says otherwise; None for that of the images."""
    teacher: Any = None
    """The pipeline that the model learns from, if the task has one. The run keeps a copy, for when it is resumed."""
    sized: ClassVar[bool] = True
    """Whether a model is made for images of one size."""
    timed: ClassVar[bool] = True
    """Whether the error depends on the time, so that validation also records it for each quarter of the times."""
    capturable: ClassVar[bool] = False
    """Whether each loss is computed by the same operations on the device, from nothing but tensors of the batch."""
    codec: Autoencoder | None = None
    """What makes images of what the model makes; None for pixels. The run sets it."""

    def __init__(
        self, options: Chosen, process: Process, *, seed: int = 0, num_samples: int = 36, sampling_steps: int = 25
    ) -> None:
        self.options = options
        self.process = process
        self.seed = seed
        self.num_samples = num_samples
        self.sampling_steps = sampling_steps

    @property
    def class_conditional(self) -> bool:
        """Whether the model is given the classes of the images."""
        return False

    @property
    def condition_dropout(self) -> float:
        """The fraction of the training images whose conditions are dropped."""
        return 0.0

    def conditions(
        self, batch: Mapping[str, Any], device: torch.device, draws: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns the conditions of a batch of B images, as keyword arguments of the model's call.

        Args:
            batch: what the data gives for each image, such as `label` `(B,)`.
            device: where the model is.
            draws: uniform random numbers `(B,)`: an image loses its conditions if its number is below
                `condition_dropout`. None keeps all conditions, as validation does.
        """
        return {}

    @property
    def needs_captions(self) -> bool:
        """Whether the images must have captions."""
        return False

    def use_captions(self, captions: Sequence[str], start: Facts) -> Tokenise:
        """Takes note of the captions of the data, and returns what makes tensors `(N, …)` of N captions for its items.

        Args:
            captions: those of all images.
            start: the facts of the model that the run starts from; empty for a new model.

        Raises:
            InputError: if the captions, or the encoder that reads them, cannot be used.
        """
        raise NotImplementedError

    def open_data(self, settings: Any, seed: int) -> OwnData | None:
        """Returns the data to train on and what is held out, for tasks whose data are no images; None for images.

        Args:
            settings: the section `data` of the run's configuration.
            seed: the seed of the run.

        Raises:
            InputError: for data that cannot be used.
        """
        return None

    def use_data(self, report: DatasetReport) -> None:
        """Takes note of what the data offers as conditions, such as the names of the classes.

        Raises:
            InputError: if the data lacks what the task needs.
        """

    def trial_conditions(self) -> dict[str, Tensor]:
        """Returns conditions of one image, with which a new model is tried."""
        return {}

    @classmethod
    def make_process(cls, options: ProcessOptions) -> Process:
        """Returns the noise process that this task trains with."""
        return options.make()

    def model_arguments(self, channels: int, preset: str) -> dict[str, Any]:
        """Returns constructor arguments of a model for images with this number of channels."""
        return {"in_channels": channels, "out_channels": channels}

    def model_name(self, preset: str) -> str:
        """Returns what a new model of this task is called in reports."""
        return preset

    def new_model(self, preset: str, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
        """Returns a new model.

        Args:
            preset: name of the architecture.
            arguments: `model_arguments`, and `sample_size`.
            options: further constructor arguments, which take precedence.

        Raises:
            ValueError, TypeError: for settings that do not fit together.
        """
        model = build_unet(preset, **{**arguments, **options})
        if (dim := getattr(model, "dim", 2)) != 2:
            other = "plans (--task plan)" if dim == 1 else "clips (--task video)"
            raise ValueError(f"--preset {preset} is a model of {other}; choose one of images, such as small")
        return model

    def start_from(self, name: str) -> tuple[nn.Module, Any]:
        """Returns the model of a run or of a saved model, and the scheduler that it was trained with, if any.

        Raises:
            InputError: if it cannot be loaded, or is not a model for this task.
        """
        pipeline = load_model(name)
        return pipeline.unet, pipeline.scheduler

    def check_size(self, model: nn.Module, height: int, width: int) -> None:
        """Raises InputError for images of a size in pixels that the model cannot work on; others fail when tried."""

    @abstractmethod
    def loss(self, step: StepContext) -> Tensor:
        """Returns what training minimises, for each image: `(B,)`, float32."""

    @abstractmethod
    def error(self, step: StepContext) -> Tensor:
        """Returns the squared error that validation measures, for each image: `(B,)`, float32."""

    def error_and_degraded(self, step: StepContext) -> tuple[Tensor, Tensor | None]:
        """Returns `error`, and the error of the degraded images themselves if the task restores images, each `(B,)`."""
        return self.error(step), None

    def metrics(self, errors: Tensor) -> dict[str, float]:
        """Returns what validation records of the errors `(N,)`, float64, of all held-out images."""
        return {"validation_loss": float(errors.mean())}

    @abstractmethod
    def picture(self, context: PictureContext) -> Image.Image:
        """Returns a picture of what the model can do, the same in every process.

        Raises:
            Stopped: if a process is asked to stop.
        """

    @abstractmethod
    def pipeline(self, model: Network) -> Saved:
        """Returns the pipeline that is saved, and used afterwards."""

    @abstractmethod
    def usage(self, run: str) -> str:
        """Returns the command that uses the model of a run folder."""


ROUNDING = (2 / 255) ** 2 / 12
"""The mean squared error of rounding to 8 bits, for values that range over 2: 58.9 dB below the peak."""


def mean_psnr(errors: Tensor) -> float:
    """Returns the mean over images of `10 log10(4 / error)` dB; their values range over 2, so that 4 is the peak.

    An error below that of rounding counts as `ROUNDING`. A flat image that is enlarged is right to the last digits, and
    would otherwise count more than all others.
    """
    return float((10 * (4 / errors.clamp(min=ROUNDING)).log10()).mean())


class PredictingTask(Task[Chosen]):
    """A task whose model predicts something of a batch with noise, and learns from how far off it is."""

    @abstractmethod
    def attempt(self, step: StepContext) -> Attempt:
        """Returns what the model predicts, and what it should: what `loss` compares."""

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Returns how far predictions `(B, C, *size)` are from what they should be: the mean square, `(B,)`."""
        return mse_loss(predicted.float(), target.float(), reduction="none").flatten(1).mean(dim=1)

    def loss(self, step: StepContext) -> Tensor:
        """Returns the distance of each prediction, `(B,)`, times the weights of the process."""
        return loss_over_depths(step, self.attempt, self.distance)

    def error(self, step: StepContext) -> Tensor:
        attempt = self.attempt(step)
        return self.distance(attempt.prediction, attempt.target)


Restoring = TypeVar("Restoring", bound=RestorationTraining)


class RestorationTask(PredictingTask[Restoring]):
    """A task whose model restores degraded images: it learns on patches and is judged by PSNR."""

    fit = "patch"
    random_crop = True
    image_size = 48

    @abstractmethod
    def restored(self, step: StepContext) -> tuple[Tensor, Tensor]:
        """Returns the degraded and the restored images, `(B, C, H, W)` in [-1, 1] but not clipped."""

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Returns the mean square or the mean absolute value of the difference, `(B,)`."""
        values = (predicted - target).float()
        return (values**2 if self.options.loss == "squared" else values.abs()).flatten(1).mean(dim=1)

    def error(self, step: StepContext) -> Tensor:
        """Returns the mean squared error of the restored images, `(B,)`."""
        return self.error_and_degraded(step)[0]

    def error_and_degraded(self, step: StepContext) -> tuple[Tensor, Tensor]:
        """Returns the mean squared error of the restored images and of the degraded ones, each `(B,)`."""
        degraded, restored = (
            ((images - step.clean).float() ** 2).flatten(1).mean(dim=1) for images in self.restored(step)
        )
        return restored, degraded

    def metrics(self, errors: Tensor) -> dict[str, float]:
        """Adds the mean PSNR in dB."""
        return {**super().metrics(errors), "validation_psnr": mean_psnr(errors)}

    @torch.no_grad()
    def picture(self, context: PictureContext) -> Image.Image:
        """Returns degraded, restored and clean image side by side, a row for each image, halfway through the times."""
        context.processes.check(context.stop)
        device = context.model.device
        clean = torch.stack([item["image"] for item in islice(context.images, min(self.num_samples, 8))]).to(device)
        noise = normal(self.seed, Stream.PICTURES, range(len(clean)), clean.shape[1:], device)
        times = self.process.draw_times(torch.full((len(clean),), 0.5, device=device))
        degraded, restored = self.restored(StepContext(context.model, self.process, clean, noise, times))
        columns = torch.stack([degraded, restored, clean], dim=1).flatten(0, 1)
        return make_grid(to_unit_range(columns.cpu()).clamp(0, 1), columns=3)
