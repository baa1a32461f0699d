"""What a training task decides; everything else of a run is the loop's."""

from abc import ABC, abstractmethod
from itertools import islice
from typing import Any

import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import StopRequest
from continuous_unet.diffusion.draws import index_noise
from continuous_unet.images.grids import make_grid
from continuous_unet.training.config import TrainConfig


class TrainingTask(ABC):
    """The model's channels, the loss and the error of a batch, a picture of the progress, and what is saved.

    Every task gets the same random numbers: clean images, standard normal noise of their shape and a timestep per
    image, uniform over 0 to `num_train_timesteps - 1`. What it makes of them is its business: a denoiser takes the
    strength of the noise from the timestep.

    Args:
        config: of the run.
    """

    fit = "crop"
    random_crop = False
    image_size: int | None = None
    """Side of the training images where the run does not say; None for the images' own."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.scheduler = self.make_scheduler()

    def make_scheduler(self) -> Any:
        """The noise schedule that the run trains with."""
        return DDPMScheduler(
            num_train_timesteps=self.config.num_train_timesteps,
            beta_schedule=self.config.noise_schedule,
            prediction_type=self.config.objective or "epsilon",
        )

    def model_arguments(self, channels: int) -> dict[str, Any]:
        """Constructor arguments of the model for images of so many channels."""
        return {"in_channels": channels, "out_channels": channels}

    @abstractmethod
    def loss(self, model: Any, clean: Tensor, noise: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        """What training makes small, per image: `(B,)`, float32.

        Args:
            model: a U-Net.
            clean: images `(B, C, H, W)` in [-1, 1].
            noise: standard normal, of that shape.
            timesteps: `(B,)`.
            labels: classes `(B,)`, or None.
        """

    @abstractmethod
    def error(self, model: Any, clean: Tensor, noise: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        """The squared error of validation, per image: `(B,)`; arguments as of `loss`."""

    @abstractmethod
    def grid(self, model: Any, images: Any, num_classes: int | None, processes: Processes, stop: StopRequest) -> Any:
        """A picture of what the model can do, in every process.

        Args:
            model: in evaluation mode.
            images: a data set: held-out images if there are some.
            num_classes: of a class-conditional model.
            processes: that share the work.
            stop: asked before every evaluation of the model.

        Raises:
            Stopped: if a process is asked to stop.
        """

    @abstractmethod
    def pipeline(self, model: Any) -> Any:
        """What can be saved and used."""

    @abstractmethod
    def usage(self, run: str) -> str:
        """The command that uses the model of a run folder."""


class RestorationTask(TrainingTask):
    """A task whose model makes a better image of a worse one: it learns on patches and is judged by PSNR."""

    fit = "patch"
    random_crop = True
    image_size = 48

    @abstractmethod
    def restored(self, model: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The degraded and the restored images, `(B, C, H, W)` in [-1, 1] but not clipped; arguments as of `loss`."""

    def deviation(self, difference: Tensor) -> Tensor:
        """The loss of a difference `(B, C, H, W)`: its mean square or mean absolute value per image, `(B,)`."""
        values = difference.float()
        return (values**2 if self.config.loss == "squared" else values.abs()).mean(dim=(1, 2, 3))

    def error(self, model: Any, clean: Tensor, noise: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        """Of the restored image; in [-1, 1], so that PSNR is `10 log10(4 / error)`."""
        return ((self.restored(model, clean, noise, timesteps)[1] - clean).float() ** 2).mean(dim=(1, 2, 3))

    @torch.no_grad()
    def grid(
        self, model: Any, images: Any, num_classes: int | None, processes: Processes, stop: StopRequest
    ) -> Image.Image:
        """Degraded, restored and clean image side by side, one row an image; every process makes the same."""
        processes.check(stop)
        device = next(model.parameters()).device
        most = min(self.config.num_samples, 8)
        # a stream has no places to look things up at: its first images are taken
        items = images if isinstance(images, IterableDataset) else (images[k] for k in range(min(most, len(images))))
        clean = torch.stack([item["image"] for item in islice(items, most)])
        noise = torch.stack([index_noise(clean[0], self.config.seed, k) for k in range(len(clean))])
        times = torch.full((len(clean),), self.config.num_train_timesteps // 2)
        degraded, restored = self.restored(model, clean.to(device), noise.to(device), times.to(device))
        columns = torch.stack([degraded.cpu(), restored.cpu(), clean], dim=1).flatten(0, 1)
        return make_grid((columns / 2 + 0.5).clamp(0, 1), columns=3)
