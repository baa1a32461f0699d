"""Makes clips from noise, or continues clips whose first frames are given."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.images.ranges import to_model_range
from continuous_unet.tasks.facts import read_facts, write_facts
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
from continuous_unet.tasks.network import Pipeline
from continuous_unet.tasks.saved import load_parts, model_folder, trained_for


class VideoPipeline(DiffusionSamplingPipeline):
    """Samples clips `(B, C, F, H, W)` from a `ContinuousUNet3DModel` with any scheduler of diffusers.

    The call has the arguments of `DiffusionSamplingPipeline`, and `first_frames`. With `output_type="pil"` a clip is a
    list of images, and with `"np"` they are `(B, F, H, W, C)`.
    """

    task = "video"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The channels, frames, height and width of the clips."""
        size: Any = self.unet.config.sample_size
        if size is None or isinstance(size, int) or len(size) != 3:
            raise InputError(
                "the model's config has no number of frames; set its sample_size to (frames, height, width)"
            )
        return (self.unet.config.in_channels, *size)

    def __call__(self, *args: Any, first_frames: Tensor | None = None, **kwargs: Any) -> Any:
        """Samples a batch of clips.

        Args:
            args: as for `DiffusionSamplingPipeline`.
            first_frames: frames `(C, K, H, W)` in [0, 1] that every clip begins with, or some for each clip,
                `(B, C, K, H, W)`; fewer than a clip has. They stay as they are.
            kwargs: as for `DiffusionSamplingPipeline`.

        Raises:
            InputError: as there, and for frames that do not fit the model.
        """
        if kwargs.get("image") is not None:
            raise InputError("image is for models of images; clips start from noise, or continue first_frames")
        if first_frames is None:
            return super().__call__(*args, **kwargs)
        channels, frames, *sides = self.image_shape
        shape = tuple(first_frames.shape[-4:])
        given = shape[1] if len(shape) == 4 else 0
        if not 1 <= given < frames or shape != (channels, given, *sides):
            raise InputError(
                f"first_frames has shape {tuple(first_frames.shape)}; expected (C, K, H, W) or (B, C, K, H, W) with "
                f"{channels} channel(s), 1 to {frames - 1} frames, and {sides[0]}x{sides[1]} pixels"
            )
        known = to_model_range(first_frames)

        def hold(state: Tensor) -> Tensor:
            """Returns a state whose first frames are the known ones, without noise, as in training."""
            if known.ndim == 5 and len(known) not in (1, len(state)):
                raise InputError(
                    f"first_frames has {len(known)} clips for a batch of {len(state)}; expected as many, or 1"
                )
            return torch.cat([known.to(state).expand(len(state), -1, -1, -1, -1), state[:, :, given:]], dim=2)

        return super().__call__(*args, **{**kwargs, "hold": hold})

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:  # type: ignore[override]
        """Saves the parts as diffusers does, and the facts beside them."""
        Pipeline.save_pretrained(self, save_directory, **kwargs)
        write_facts(Path(save_directory), self.facts)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, **kwargs: Any) -> "VideoPipeline":  # type: ignore[override]
        """Loads a run folder or a saved pipeline; see `load_video`."""
        return load_video(path, **kwargs)


VideoPipeline.__module__ = "continuous_unet"


def load_video(
    path: str | os.PathLike,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
) -> VideoPipeline:
    """Loads a model of clips.

    Args:
        path: a run folder of `cunet train --task video`, or a saved pipeline.
        device: where to put it; the CPU if None.
        dtype: type of the weights; as saved if None.
        variant: name of the variant of the weights; the only one if None.

    Raises:
        InputError: if there is nothing to load, or a file is damaged, or the model makes no clips.
    """
    unet, scheduler, index = load_parts(Path(path), variant)
    if trained_for(index) != "video" or getattr(unet, "dim", 2) != 3:
        raise InputError(f"{path} makes no clips; expected a model of `cunet train --task video`")
    pipeline = VideoPipeline(unet, scheduler, read_facts(model_folder(Path(path))))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device=device, dtype=dtype)
