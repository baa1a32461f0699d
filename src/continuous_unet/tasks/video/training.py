"""Trains the diffusion model of clips."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from continuous_unet.base.errors import InputError
from continuous_unet.data.clips.dataset import open_clips
from continuous_unet.data.options import BUILT_IN, BUILT_IN_CLIPS
from continuous_unet.images.grids import make_grid
from continuous_unet.models.build import build_unet
from continuous_unet.tasks.base import OwnData, PictureContext, PredictingTask, StepContext
from continuous_unet.tasks.depths import Attempt
from continuous_unet.tasks.facts import Facts
from continuous_unet.tasks.generate.pipeline import gather_images, generate_share
from continuous_unet.tasks.generate.rows import Row, jobs_of
from continuous_unet.tasks.generate.training import BATCH
from continuous_unet.tasks.network import Network
from continuous_unet.tasks.video.options import VideoTraining
from continuous_unet.tasks.video.pipeline import VideoPipeline, load_video

MOST_CLIPS = 6
"""The number of clips of a picture of the progress."""


class VideoTask(PredictingTask[VideoTraining]):
    """Learns clips; of some of them the first frames are given without noise, and only the others count."""

    size: tuple[int, ...]
    """Frames, height and width of a clip; set with the data."""

    @property
    def condition_dropout(self) -> float:
        """The fraction of the clips whose first frames are given: the others drop this condition."""
        return self.options.continue_share

    def open_data(self, settings: Any, seed: int) -> OwnData:
        """Returns the clips to train on, and those that are held out."""
        if settings.source in BUILT_IN:
            names = " or ".join(BUILT_IN_CLIPS)
            raise InputError(f"--data {settings.source} holds images; --task video trains on clips, such as {names}")
        data = open_clips(
            settings.source,
            frames=self.options.frames,
            image_size=settings.image_size,
            channels=settings.channels,
            fit=settings.fit or "crop",
            random_flip=settings.random_flip,
            seed=seed,
        )
        self.size = data.report.size
        return data.split(settings.num_validation)

    def model_arguments(self, channels: int, preset: str) -> dict[str, Any]:
        arguments = super().model_arguments(channels, preset)
        return arguments | {"_class_name": "ContinuousUNet3DModel", "sample_size": self.size}

    def new_model(self, preset: str, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
        if preset.startswith("ddpm"):
            raise ValueError(f"--preset {preset} is a model of images; choose one of ours, such as clips")
        return build_unet(preset, **{**arguments, **options})

    def start_from(self, name: str) -> tuple[nn.Module, Any]:
        pipeline = load_video(name)
        return cast(nn.Module, pipeline.unet), pipeline.scheduler

    def conditions(
        self, batch: Mapping[str, Any], device: torch.device, draws: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns how many first frames of each clip are given, `(B,)`: none, or 1 up to half of them."""
        if draws is None or not self.condition_dropout:
            return {}
        share = draws / self.condition_dropout  # uniform in [0, 1) for those that are given
        counts = 1 + (share * max(1, self.options.frames // 2)).floor()
        return {"given": torch.where(share < 1, counts, 0).clamp(max=self.options.frames - 1)}

    def facts(self) -> Facts:
        """Returns what is saved with the model."""
        return Facts()

    def attempt(self, step: StepContext) -> Attempt:
        """Returns what the model predicts, and what it should; both are zero in frames that are given."""
        noised = step.process.add_noise(step.clean, step.noise, step.times)
        given = step.conditions.get("given")
        if given is None:
            return Attempt(step.model(noised.x_t, step.times).sample, noised.target, noised.weight)
        frames = step.clean.shape[2]
        held = torch.arange(frames, device=step.clean.device)[None, :] < given[:, None]
        # frames that are left count more, so that a clip counts as much as any other
        open_ = (~held) * (frames / (frames - given))[:, None] ** 0.5
        held, open_ = held[:, None, :, None, None], open_[:, None, :, None, None]
        prediction = step.model(torch.where(held, step.clean, noised.x_t), step.times).sample
        return Attempt(open_ * prediction, open_ * noised.target, noised.weight)

    def picture(self, context: PictureContext) -> Image.Image:
        """Returns clips with the same seeds each time, a row each: its frames from left to right."""
        pipeline = VideoPipeline(context.model, self.process.make_sampler(None), self.facts())
        pipeline.set_progress_bar_config(disable=True)
        jobs = jobs_of([Row("", {})], max(1, min(self.num_samples, MOST_CLIPS)), BATCH)
        options = {"seed": self.seed, "num_inference_steps": self.sampling_steps, "guidance_scale": 1.0}
        made = generate_share(pipeline, jobs, processes=context.processes, stop=context.stop, **options)
        return strip(gather_images(made, context.processes))

    def pipeline(self, model: Network) -> VideoPipeline:
        return VideoPipeline(model, self.process.scheduler, self.facts())

    def usage(self, run: str) -> str:
        return f"cunet sample {run} --num 4 --steps 50 --output clips.gif"


def strip(clips: Tensor) -> Image.Image:
    """Returns one picture of clips `(B, C, F, H, W)` in [0, 1], a row each."""
    return make_grid(clips.transpose(1, 2).flatten(0, 1), columns=clips.shape[2])
