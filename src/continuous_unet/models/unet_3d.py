"""`ContinuousUNet3DModel`: the continuous U-Net for video and volumes."""

from dataclasses import dataclass
from typing import Any

from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from torch import Tensor

from continuous_unet.models.conditioning import PrecomputedEmbeddings
from continuous_unet.models.config import Settings, pick
from continuous_unet.models.unet import ContinuousUNet
from continuous_unet.models.unet_2d import ContinuousUNet2DModel, takes


@dataclass(frozen=True)
class Settings3D(Settings):
    """The constructor arguments of `ContinuousUNet3DModel`."""

    factorised: bool = True
    downsample_frames: bool = False


class ContinuousUNet3DModel(ContinuousUNet2DModel):
    """A U-Net for clips `(B, C, F, H, W)`, whose residual stacks are second-order neural ODEs.

    Its arguments and outputs are those of `ContinuousUNet2DModel` with an axis of frames in front of height and width,
    and have the names of diffusers' `UNet3DConditionModel` where the meaning is the same. Types of blocks may be
    written as there, `"DownBlock3D"` for `"DownBlock2D"`. Self-attention joins the positions of all frames.

    Args:
        sample_size: height and width of the clips that the model is meant for, or frames, height and width.
        factorised: replace each 3-D convolution by one over space and then one over time, as in R(2+1)D (arXiv
            1711.11248), which costs less than half.
        downsample_frames: halve the number of frames from level to level like height and width, and apply `patch_size`
            to the frames too; without it, any number of frames works.
        kwargs: the arguments of `ContinuousUNet2DModel`.

    Raises:
        ValueError: for settings that do not fit together; the message names them.
    """

    @takes(Settings3D)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = dict(self.config)
        for name in ("down_block_types", "up_block_types"):
            if settings[name] is not None:
                settings[name] = tuple(kind.replace("3D", "2D") for kind in settings[name])
        config = pick(settings)
        ContinuousUNet.__init__(self, config, dim=3)
        self.register_to_config(integration_time=config.solver.horizon)

    def forward(  # type: ignore[override]  # the output is of another class
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        num_solver_steps: int | None = None,
        embeddings: PrecomputedEmbeddings | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        next_timestep: Tensor | float | int | None = None,
    ) -> UNet3DConditionOutput | tuple[Tensor]:
        """Returns what the model was trained to predict at a diffusion timestep.

        Args:
            sample: noisy clips `(B, in_channels, F, H, W)`.
            timestep: the *diffusion* timestep: a number, a 0-d tensor, or one per clip `(B,)`.
            class_labels: `(B,)`, required by and only allowed for class-conditional models.
            return_dict: whether to return a `UNet3DConditionOutput` (the prediction is its `sample`) rather than a
                tuple.
            num_solver_steps: solver steps in each block for this call; the model's own if None.
            embeddings: the result of `precompute_embeddings`, which saves time where no gradients are needed.
            encoder_hidden_states: a text for each clip, see `ContinuousUNet2DModel`.
            encoder_attention_mask: which of its tokens count.
            input_ids: the text as tokens, see `ContinuousUNet2DModel`.
            next_timestep: see `ContinuousUNet2DModel`.

        Returns:
            The prediction, `(B, out_channels, F, H, W)`.

        Raises:
            ValueError: for arguments that do not fit the model; the message names them.
        """
        prediction = self.predict(
            sample,
            timestep,
            class_labels,
            num_solver_steps,
            embeddings,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            input_ids=input_ids,
            next_timestep=next_timestep,
        )
        return UNet3DConditionOutput(sample=prediction) if return_dict else (prediction,)


ContinuousUNet3DModel.__module__ = "continuous_unet"
