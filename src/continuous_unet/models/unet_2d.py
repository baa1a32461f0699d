"""`ContinuousUNet2DModel`: the continuous U-Net behind the contract of diffusers' `UNet2DModel`."""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from continuous_unet.models.conditioning import PrecomputedEmbeddings
from continuous_unet.models.config import Settings, check_elastic, pick, without_foreign
from continuous_unet.models.controls import BLOCKS
from continuous_unet.models.unet import ContinuousUNet

if TYPE_CHECKING:
    from continuous_unet.models.config import SavedConfig

# diffusers 0.42 warns at every cast of parts that should stay in float32, also where there are none, and no class
# attribute makes it silent.
logging.getLogger(ModelMixin.__module__).addFilter(lambda r: "should be kept in float32: []" not in r.getMessage())


Arguments = ParamSpec("Arguments")
Constructor = Callable[Concatenate[Any, Arguments], None]


def takes(settings: Callable[Arguments, object]) -> Callable[[Callable[..., None]], Constructor[Arguments]]:
    """Gives a constructor the parameters of a dataclass, and has diffusers write down what they are set to.

    Other arguments are refused, or dropped if they are retired ones (`without_foreign`).
    """

    def decorate(constructor: Callable[..., None]) -> Constructor[Arguments]:
        own, parameters = (inspect.signature(function).parameters for function in (constructor, settings))
        signature = inspect.Signature([own["self"], *parameters.values(), own["kwargs"]])

        @functools.wraps(constructor)
        def construct(self: Any, *args: Any, **kwargs: Any) -> None:
            for name in without_foreign(signature.bind(self, *args, **kwargs).kwargs):
                if name not in parameters:
                    raise TypeError(f"{constructor.__qualname__}() got an unexpected keyword argument {name!r}")
            constructor(self, *args, **kwargs)

        construct.__signature__ = signature  # type: ignore[attr-defined]  # diffusers reads the names here
        return register_to_config(construct)

    return decorate


class ContinuousUNet2DModel(ContinuousUNet, ModelMixin, ConfigMixin):  # type: ignore[misc]  # their config_name differ
    """A U-Net whose residual stacks are second-order neural ODEs; a drop-in for diffusers' `UNet2DModel`.

    The source is "The Missing U for Efficient Diffusion Models" (Calvo-Ordoñez et al., TMLR 2024, arXiv 2310.20092).
    Arguments of `UNet2DModel` mean the same here, so that a constructor call can be taken over. Those without a
    counterpart (`resnet_time_scale_shift`, `downsample_padding`, …) are accepted with their default value only.

    Nothing that belongs to one call is stored on the model: threads may share it.

    Args:
        sample_size: height and width of the images that the model is meant for, or a pair; any size that is a multiple
            of `patch_size * 2 ** (levels - 1)` works.
        in_channels: channels of the input.
        out_channels: channels of the output.
        center_input_sample: map an input in [0, 1] to [-1, 1] first.
        time_embedding_dim: width of the timestep embedding; four times the first width if None.
        time_proj_channels: sines and cosines that the timestep embedding starts from; the first width if None.
        freq_shift: frequency shift of the timestep embedding, as in `UNet2DModel`.
        flip_sin_to_cos: whether the cosines come first in the timestep embedding, as in `UNet2DModel`.
        down_block_types: per level, `"DownBlock2D"` or `"AttnDownBlock2D"` (with self-attention); no attention if None.
        mid_block_type: `"UNetMidBlock2D"`, or None for no block between the two halves.
        up_block_types: per level from the lowest resolution up, `"UpBlock2D"` or `"AttnUpBlock2D"`; mirrors
            `down_block_types` if None.
        add_attention: self-attention in the middle block.
        block_out_channels: width of each level. Constant, moderate widths serve better here than doubling ones.
        field_channels: channels between the convolutions of a field, on each level; the level's width (twice that for
            `"separable"` fields) if None. Pruned models have fewer channels.
        layers_per_block: dynamic blocks in a row on each level. One is usual: depth is the solver's.
        dropout: dropout probability inside the fields.
        act_fn: activation, smooth ones preferred.
        attention_type: what joins all positions where a level has attention: `"attention"`; `"waves"`, damped waves in
            closed form (`models/waves.py`); or `"heat"`, their control. The latter two start as the identity.
        attention_head_dim: channels of an attention head; one head if None.
        norm_num_groups: groups of every GroupNorm; must divide every width.
        norm_eps: epsilon of every GroupNorm.
        norm_type: `"group"`; or `"pixel"` (over the channels of each pixel) or `"none"`. With the latter two a pixel of
            the output depends on its surroundings and not on the size of the image, as restoration in tiles needs.
        class_embed_type: None, `"timestep"` or `"identity"`, as in `UNet2DModel`.
        num_class_embeds: number of classes of a learned class embedding.
        cross_attention_dim: width of the tokens of a text, for a model that is conditioned on one; no text if None. It
            brings cross-attention after the blocks of the lowest level and of the middle, and the mean of the text
            joins the timestep embedding. All of this starts at zero, so a new model does not depend on its text.
        text_encoder_config: settings of a small transformer, a part of the model, that reads the tokens of a text (see
            `continuous_unet.text.transformer.TextEncoderConfig`); None for no text, or for states of another encoder.
        patch_size: side of the squares of pixels that enter as channels (space to depth) and leave as pixels again, so
            that no block runs at full resolution; 1 turns this off.
        block_type: `"second_order"`, the dynamic block. To compare with: `"first_order"`, the ODE over the
            concatenated state that the paper's code ran (needs torchdiffeq), and `"residual"`, plain weight-tied
            residual updates, without velocity and solver.
        field_type: of second-order blocks: `"relaxation"` (`x'' = rate (target - x')`), `"separable"` (the same with
            separable convolutions), `"gradient"` (damped motion down an energy, with about half the parameters) or
            `"general"` (`x'' = f(t, x, x')`, the paper's).
        initial_velocity: of second-order blocks: learned from the `"features"`, or from them and the `"timestep"`.
        num_solver_steps: solver steps in each block; can be changed later by `set_solver`, or for one call.
        integration_time: end of the ODE's time; `num_solver_steps` if None, which makes a step one unit long.
        method: integration method, see `continuous_unet.ode.METHODS`. The drift-kick methods need a split field: any
            `field_type` but `"general"`.
        gradient: gradient mode, see `continuous_unet.ode.GRADIENTS`.
        solver_rtol: relative tolerance of adaptive methods.
        solver_atol: absolute tolerance of adaptive methods.
        next_timestep_embedding: whether the model is also told where an evaluation jumps to, as models that sample in
            a few steps are (`next_timestep` of `forward`). The embedding starts at zero.
        elastic_depth: whether each block is given the length of its solver steps, for models that are trained at
            several numbers of them.

    Raises:
        ValueError: for settings that do not fit together, by name.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["DynamicBlock", "FirstOrderBlock", "ResidualBlock"]  # noqa: RUF012 (diffusers' annotation)
    _skip_layerwise_casting_patterns = ("norm",)  # type: ignore[assignment]  # diffusers' says None
    ignore_for_config = ["kwargs"]  # noqa: RUF012

    if TYPE_CHECKING:
        to: Any  # mypy takes diffusers' for a function without self

        @property
        def config(self) -> "SavedConfig": ...

    @takes(Settings)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        config = pick(self.config)
        super().__init__(config, dim=2)
        # written down, so that a later change of the number of steps does not move the end of the integration
        self.register_to_config(integration_time=config.solver.horizon)

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> tuple[dict[str, Any], ...]:
        """Refuses or drops retired settings, which diffusers' own method would ignore with a warning."""
        return super().extract_init_dict(without_foreign(config_dict), **kwargs)

    @property
    def _compute_dtype(self) -> torch.dtype:
        return self.dtype  # under layerwise casting this is not the dtype that the weights are stored in

    def forward(
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
    ) -> UNet2DOutput | tuple[Tensor]:
        """Returns what the model was trained to predict (the noise, `v` or the image) at a diffusion timestep.

        Args:
            sample: noisy images `(B, in_channels, H, W)`.
            timestep: the *diffusion* timestep: a number, a 0-d tensor, or one per image `(B,)`.
            class_labels: `(B,)`, required by and only allowed for class-conditional models.
            return_dict: whether to return a `UNet2DOutput` (the prediction is its `sample`) rather than a tuple.
            num_solver_steps: solver steps in each block for this call; the model's own if None.
            embeddings: the result of `precompute_embeddings`, which saves time where no gradients are needed.
            encoder_hidden_states: a text for each image, `(B, L, cross_attention_dim)`; required by and only allowed
                for models with `cross_attention_dim`.
            encoder_attention_mask: which of its tokens count, bool `(B, L)`; all if None.
            input_ids: the text as tokens `(B, L)` in place of these, for models with `text_encoder_config`.
            next_timestep: the timestep that this evaluation jumps to, as one number or per image, for models with
                `next_timestep_embedding`; `timestep` itself if None.

        Returns:
            The prediction, `(B, out_channels, H, W)`.

        Raises:
            ValueError: for arguments that do not fit the model, by name.
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
        return UNet2DOutput(sample=prediction) if return_dict else (prediction,)

    def set_solver(
        self,
        num_steps: int | None = None,
        method: str | None = None,
        gradient: str | None = None,
        keep_loop: bool | None = None,
    ) -> "ContinuousUNet2DModel":
        """Changes how the blocks integrate by default. Arguments that are None, and the integration time, stay.

        More solver steps follow the same ODE more closely; fewer are faster. The change is saved with the model, except
        for `keep_loop`, which is for exports (see `continuous_unet.ode.integrate`). Use `num_solver_steps` of `forward`
        to change a single call.

        Raises:
            ValueError: for settings that cannot work together; nothing is changed then.
        """
        config, blocks = self.config, self._blocks()
        BLOCKS[config.block_type].check(config.field_type, method or config.method, gradient or config.gradient)
        check_elastic(config.elastic_depth, method or config.method)
        changes = {"num_steps": num_steps, "method": method, "gradient": gradient, "keep_loop": keep_loop}
        changed = [block.solver.with_changes(**changes) for block in blocks]
        for block, solver in zip(blocks, changed, strict=True):
            block.solver = solver
        self.register_to_config(
            num_solver_steps=changed[0].num_steps, method=changed[0].method, gradient=changed[0].gradient
        )
        return self


# diffusers writes a class's module into model_index.json and later reads the class from there. So it must be the name
# that people import, and stay when files move.
ContinuousUNet2DModel.__module__ = "continuous_unet"
