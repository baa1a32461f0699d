"""Trains an autoencoder: images become latents and images again."""

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from continuous_unet.base.errors import InputError
from continuous_unet.codecs.autoencoder import load_autoencoder
from continuous_unet.codecs.training import Reconstruction, TrainedAutoencoder, new_autoencoder
from continuous_unet.images.grids import make_grid
from continuous_unet.images.ranges import to_unit_range
from continuous_unet.tasks.base import PictureContext, Saved, StepContext, Task, mean_psnr
from continuous_unet.tasks.codec.options import CodecTraining
from continuous_unet.tasks.network import Network

NAMES = {"tiny": "AutoencoderTiny", "kl": "AutoencoderKL"}


class CodecTask(Task[CodecTraining]):
    """Learns to give back the image from latents that are a few times smaller, and bounded."""

    sized = False
    timed = False

    def model_name(self, preset: str) -> str:
        return NAMES[self.options.autoencoder]

    def new_model(self, preset: str, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
        chosen, channels, size = self.options, arguments["in_channels"], arguments["sample_size"]
        latents = chosen.latent_channels
        if latents > channels * chosen.factor**2:
            raise ValueError(
                f"--latent-channels {latents} with --factor {chosen.factor} makes latents larger than images of "
                f"{channels} channels; give at most {channels * chosen.factor**2}"
            )
        network = new_autoencoder(
            chosen.autoencoder,
            channels,
            factor=chosen.factor,
            latent_channels=latents,
            widths=chosen.widths,
            blocks=chosen.blocks,
            sample_size=size if isinstance(size, int) else max(size),
            options=dict(options),
        )
        return TrainedAutoencoder(network, chosen.latent_noise)

    def start_from(self, name: str) -> tuple[nn.Module, None]:
        network = load_autoencoder(name).network
        network.requires_grad_(True)
        model = TrainedAutoencoder(network, self.options.latent_noise)
        chosen = self.options
        has = type(network).__name__, model.factor, network.config.latent_channels
        wanted = self.model_name(""), chosen.factor, chosen.latent_channels
        if has != wanted:
            kind, factor, number = has
            raise InputError(
                f"the codec {name} to start from is an {kind} with --factor {factor} and --latent-channels {number}; "
                "give the same options, and its --autoencoder"
            )
        return model, None

    def check_size(self, model: nn.Module, height: int, width: int) -> None:
        factor = cast(TrainedAutoencoder, model).factor
        if height % factor or width % factor:
            raise InputError(
                f"images of {height}x{width} pixels cannot be made {factor} times smaller; choose an --image-size that "
                f"is a multiple of {factor}"
            )

    def loss(self, step: StepContext) -> Tensor:
        height, width = step.clean.shape[2:]
        config = cast(Any, step.model.config)
        shape = config.latent_channels, height // self.options.factor, width // self.options.factor
        noise = step.noise.flatten(1)[:, : math.prod(shape)].reshape(-1, *shape)  # latents are smaller than images
        output = self._output(step, noise)
        difference = (output.sample - step.clean).float()
        deviation = difference**2 if self.options.loss == "squared" else difference.abs()
        return deviation.flatten(1).mean(dim=1) + self.options.kl_weight * output.divergence

    def error(self, step: StepContext) -> Tensor:
        """Returns the mean squared error of the images that come back, `(B,)`."""
        return ((self._output(step).sample - step.clean).float() ** 2).flatten(1).mean(dim=1)

    def _output(self, step: StepContext, noise: Tensor | None = None) -> Reconstruction:
        return cast(Reconstruction, step.model(step.clean, 0, noise=noise))

    def metrics(self, errors: Tensor) -> dict[str, float]:
        return {**super().metrics(errors), "validation_psnr": mean_psnr(errors)}

    @torch.no_grad()
    def picture(self, context: PictureContext) -> Image.Image:
        """Returns each image beside the one that comes back."""
        context.processes.check(context.stop)
        images = [item["image"] for item in islice(context.images, min(self.num_samples, 16))]
        clean = torch.stack(images).to(context.model.device)
        pairs = torch.stack([clean, context.model(clean, 0).sample], dim=1).flatten(0, 1)
        return make_grid(to_unit_range(pairs.cpu()).clamp(0, 1), columns=min(8, len(pairs)))

    def pipeline(self, model: Network) -> Saved:
        return cast(Saved, cast(TrainedAutoencoder, model).network)

    def usage(self, run: str) -> str:
        return f"cunet train --data DATA --codec {run} --output RUN"
