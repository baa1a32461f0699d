"""`ContinuousUNet1DModel`: the continuous U-Net for sequences, such as the plans of robots."""

from dataclasses import dataclass, replace
from typing import Any

from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.unets.unet_1d import UNet1DOutput
from torch import Tensor

from continuous_unet.models.conditioning import PrecomputedEmbeddings
from continuous_unet.models.config import Settings, pick
from continuous_unet.models.unet import ContinuousUNet
from continuous_unet.models.unet_2d import ContinuousUNet2DModel, takes


@dataclass(frozen=True)
class Settings1D(Settings):
    """The constructor arguments of `ContinuousUNet1DModel`."""

    global_cond_dim: int | None = None


class ContinuousUNet1DModel(ContinuousUNet2DModel):
    """A U-Net for sequences `(B, C, L)`, whose residual stacks are second-order neural ODEs.

    Its arguments are those of `ContinuousUNet2DModel`, with two differences: `sample_size` is the length of the
    sequences, and each sequence can be conditioned on a vector, as in the 1-D U-Net of Diffusion Policy (arXiv
    2303.04137). `forward` takes no text.

    Args:
        global_cond_dim: size of that vector, whose embedding is added to that of the timestep; None for no vector.
        kwargs: the arguments of `ContinuousUNet2DModel`.

    Raises:
        ValueError: for settings that do not fit together; the message names them.
    """

    @takes(Settings1D)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings: Any = self.config
        config, size = pick(settings), settings.global_cond_dim
        if size is not None:
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"global_cond_dim={size!r} must be an integer of at least 1")
            if config.num_class_embeds is not None or config.class_embed_type is not None:
                raise ValueError(f"global_cond_dim={size} and classes are two conditions; give one of them")
            # an embedding that is given as it is joins that of the timestep
            config = replace(config, class_embed_type="identity")
        ContinuousUNet.__init__(self, config, dim=1)
        self.global_embedding = None if size is None else TimestepEmbedding(size, config.emb_channels)
        self.register_to_config(integration_time=config.solver.horizon)

    def forward(  # type: ignore[override]  # which has texts
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        global_cond: Tensor | None = None,
        return_dict: bool = True,
        num_solver_steps: int | None = None,
        embeddings: PrecomputedEmbeddings | None = None,
        class_labels: Tensor | None = None,
        next_timestep: Tensor | float | int | None = None,
    ) -> UNet1DOutput | tuple[Tensor]:
        """Returns what the model was trained to predict at a diffusion timestep.

        Args:
            sample: noisy sequences `(B, in_channels, L)`.
            timestep: the *diffusion* timestep: a number, a 0-d tensor, or one per sequence `(B,)`.
            global_cond: a vector for each sequence `(B, global_cond_dim)`; required by and only allowed for models that
                have it.
            return_dict: whether to return a `UNet1DOutput` (the prediction is its `sample`) rather than a tuple.
            num_solver_steps: solver steps in each block for this call; the model's own if None.
            embeddings: the result of `precompute_embeddings`.
            class_labels: `(B,)`, required by and only allowed for class-conditional models.
            next_timestep: see `ContinuousUNet2DModel`.

        Returns:
            The prediction, `(B, out_channels, L)`.

        Raises:
            ValueError: for arguments that do not fit the model; the message names them.
        """
        if embeddings is None or global_cond is not None:
            class_labels = self._embedded(global_cond, sample.shape[0]) if global_cond is not None else class_labels
            if self.global_embedding is not None and class_labels is None:
                size = self.global_embedding.linear_1.in_features
                raise ValueError(f"this model is conditioned on a vector: pass global_cond (B, {size})")
        prediction = self.predict(
            sample, timestep, class_labels, num_solver_steps, embeddings, next_timestep=next_timestep
        )
        return UNet1DOutput(sample=prediction) if return_dict else (prediction,)

    def _embedded(self, global_cond: Tensor, batch: int) -> Tensor:
        if self.global_embedding is None:
            raise ValueError("global_cond was given to a model without it (global_cond_dim is None)")
        size = self.global_embedding.linear_1.in_features
        if global_cond.ndim != 2 or global_cond.shape[1] != size or global_cond.shape[0] != batch:
            raise ValueError(f"global_cond has shape {tuple(global_cond.shape)}; expected ({batch}, {size})")
        embedded: Tensor = self.global_embedding(global_cond.to(self._compute_dtype))
        return embedded


ContinuousUNet1DModel.__module__ = "continuous_unet"
