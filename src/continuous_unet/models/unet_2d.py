"""`ContinuousUNet2DModel`: the continuous U-Net behind the contract of diffusers' `UNet2DModel`."""

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.activations import get_activation
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from continuous_unet.models.blocks import BLOCKS, INITIAL_VELOCITIES, BlockConfig, SolverConfig, check_block
from continuous_unet.models.conditioning import AdaptiveScaleShift, EmbeddingTable
from continuous_unet.models.fields import FIELDS, NORM_TYPES, FieldConfig, make_norm, zeroed

# diffusers 0.42 warns at every cast of parts that should stay in float32, also where there are none, and no class
# attribute makes it silent.
logging.getLogger(ModelMixin.__module__).addFilter(lambda r: "should be kept in float32: []" not in r.getMessage())

_DOWN_BLOCK_TYPES = ("DownBlock2D", "AttnDownBlock2D")
_UP_BLOCK_TYPES = ("UpBlock2D", "AttnUpBlock2D")


class _Stage(nn.Module):
    """The blocks of one level: dynamic blocks, each with attention after it if asked for."""

    def __init__(self, blocks: list[nn.Module], attentions: list[Attention] | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions) if attentions else None
        self.gradient_checkpointing = False  # set by ModelMixin.enable_gradient_checkpointing

    def forward(self, x: Tensor, emb: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Features, embedding and the velocity that the stage before ended with, to features and velocity."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(self._run, x, emb, carried)
        return self._run(x, emb, carried)

    def _run(self, x: Tensor, emb: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for i, block in enumerate(self.blocks):
            x, carried = block(x, emb, carried)
            if self.attentions is not None:
                x = self.attentions[i](x)
        return x, carried


class _Merge(nn.Module):
    """Joins an upsampled map with the skip connection of its level: concatenation and a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([x, skip.to(x.dtype)], dim=1))


class _Upsample(nn.Module):
    """3x3 convolution, then nearest-neighbour doubling.

    In this order the convolution runs on a quarter of the pixels; the dynamic block that follows smooths the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.conv(x), scale_factor=2.0, mode="nearest")


class ContinuousUNet2DModel(ModelMixin, ConfigMixin):
    """A U-Net whose residual stacks are second-order neural ODEs; a drop-in for diffusers' `UNet2DModel`.

    "The Missing U for Efficient Diffusion Models" (Calvo-Ordoñez et al., TMLR 2024, arXiv 2310.20092). Words that
    `UNet2DModel` has mean the same here, so that a constructor call can be taken over.

    Args:
        sample_size: height and width of the images that the model is meant for, or a pair; any size that is a multiple
            of `patch_size * 2 ** (levels - 1)` works.
        in_channels: channels of the input.
        out_channels: channels of the output.
        center_input_sample: map an input in [0, 1] to [-1, 1] first.
        time_embedding_dim: width of the timestep embedding; four times the first width if None.
        time_proj_channels: sines and cosines that the timestep embedding starts from; the first width if None.
        freq_shift: as in `UNet2DModel`.
        flip_sin_to_cos: as in `UNet2DModel`.
        down_block_types: per level, `"DownBlock2D"` or `"AttnDownBlock2D"` (with self-attention); no attention if None.
        mid_block_type: `"UNetMidBlock2D"`, or None for no block between the two halves.
        up_block_types: per level from the lowest resolution up, `"UpBlock2D"` or `"AttnUpBlock2D"`; mirrors
            `down_block_types` if None.
        add_attention: self-attention in the middle block.
        block_out_channels: width of each level. Constant, moderate widths serve better here than doubling ones.
        field_channels: channels between the convolutions of a field, on each level; the level's width (twice that for
            `"separable"` fields) if None. Pruned models have fewer.
        layers_per_block: dynamic blocks in a row on each level. One is usual: depth is the solver's.
        dropout: dropout probability inside the fields.
        act_fn: activation, smooth ones preferred.
        attention_head_dim: channels of an attention head; one head if None.
        norm_num_groups: groups of every GroupNorm; must divide every width.
        norm_eps: epsilon of every GroupNorm.
        norm_type: `"group"`; or `"pixel"` (over the channels of each pixel) or `"none"`, with which a pixel of the
            output depends on its surroundings and not on the size of the image, as restoration in tiles wants.
        class_embed_type: None, `"timestep"` or `"identity"`, as in `UNet2DModel`.
        num_class_embeds: number of classes of a learned class embedding.
        patch_size: side of the squares of pixels that enter as channels (space to depth) and leave again, so that no
            block runs at full resolution: 1 is off.
        block_type: `"second_order"`, the dynamic block. To compare with: `"first_order"`, the ODE over the
            concatenated state that the paper's code ran (needs torchdiffeq), and `"residual"`, plain weight-tied
            residual updates, without velocity and solver.
        field_type: of second-order blocks: `"relaxation"` (`x'' = rate (target - x')`), `"separable"` (the same with
            separable convolutions) or `"general"` (`x'' = f(t, x, x')`, the paper's).
        initial_velocity: of second-order blocks: learned from the `"features"`, from them and the `"timestep"`, from
            them and the velocity `"carried"` over from the block before, from them and (on the way up) the velocity
            that comes with the `"skips"`, or `"zero"`.
        read_velocity: second-order blocks give `x + W x'` at the end, not `x` alone.
        initial_decay: share of the velocity that an untrained relaxation field leaves after unit time, 0.30 to 1.
        num_solver_steps: steps of the solver in each block; can be changed later by `set_solver`.
        integration_time: end of the ODE's time; `num_solver_steps` if None, which makes a step one unit long.
        method: integration method, see `continuous_unet.ode.METHODS`. Drift-kick methods need the relaxation field.
        gradient: gradient mode, see `continuous_unet.ode.GRADIENTS`.
        solver_rtol: relative tolerance of adaptive methods.
        solver_atol: absolute tolerance of adaptive methods.

    Raises:
        ValueError: for settings that do not fit together, by name.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ("DynamicBlock", "FirstOrderBlock", "ResidualBlock")
    _skip_layerwise_casting_patterns = ("norm",)

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        center_input_sample: bool = False,
        time_embedding_dim: int | None = None,
        freq_shift: int = 0,
        flip_sin_to_cos: bool = True,
        down_block_types: tuple[str, ...] | None = None,
        mid_block_type: str | None = "UNetMidBlock2D",
        up_block_types: tuple[str, ...] | None = None,
        add_attention: bool = True,
        block_out_channels: tuple[int, ...] = (64, 96, 128),
        layers_per_block: int = 1,
        dropout: float = 0.0,
        act_fn: str = "silu",
        attention_head_dim: int | None = 8,
        norm_num_groups: int = 8,
        norm_eps: float = 1e-5,
        norm_type: str = "group",
        class_embed_type: str | None = None,
        num_class_embeds: int | None = None,
        patch_size: int = 1,
        block_type: str = "second_order",
        field_type: str = "relaxation",
        initial_velocity: str = "features",
        read_velocity: bool = False,
        initial_decay: float = 0.5,
        num_solver_steps: int = 2,
        integration_time: float | None = None,
        method: str = "kick_drift",
        gradient: str = "reversible",
        solver_rtol: float = 1e-3,
        solver_atol: float = 1e-4,
        field_channels: tuple[int, ...] | None = None,
        time_proj_channels: int | None = None,
    ) -> None:
        super().__init__()
        widths = tuple(block_out_channels)
        levels = len(widths)
        down_block_types = ("DownBlock2D",) * levels if down_block_types is None else tuple(down_block_types)
        if up_block_types is None:
            up_block_types = tuple(_UP_BLOCK_TYPES["Attn" in kind] for kind in reversed(down_block_types))
        up_block_types = tuple(up_block_types)
        hidden = (None,) * levels if field_channels is None else tuple(field_channels)
        _check_hidden(hidden, levels, norm_num_groups)
        _check_architecture(
            in_channels, out_channels, widths, down_block_types, mid_block_type, up_block_types, norm_num_groups,
            layers_per_block, patch_size, dropout, attention_head_dim, class_embed_type, num_class_embeds,
            mid_attention=mid_block_type is not None and add_attention,
        )  # fmt: skip
        if sample_size is not None:
            height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
            _check_size(height, width, patch_size * 2 ** (levels - 1), "sample_size")
        if norm_type not in NORM_TYPES:
            raise ValueError(f"norm_type={norm_type!r} is unknown; expected one of {', '.join(NORM_TYPES)}")
        if field_type not in FIELDS:
            raise ValueError(f"field_type={field_type!r} is unknown; expected one of {', '.join(FIELDS)}")
        if integration_time is None:
            integration_time = float(num_solver_steps)
            # written down, so that a later change of the number of steps does not move the end of the integration
            self.register_to_config(integration_time=integration_time)
        if initial_velocity not in INITIAL_VELOCITIES:
            raise ValueError(
                f"initial_velocity={initial_velocity!r} is unknown; expected one of {', '.join(INITIAL_VELOCITIES)}"
            )
        lowest = math.exp(-FieldConfig.max_rate)
        if not lowest < initial_decay < 1:
            raise ValueError(f"initial_decay={initial_decay!r} must lie between {lowest:.2f} and 1")
        solver = SolverConfig(num_solver_steps, integration_time, method, gradient, solver_rtol, solver_atol)
        check_block(block_type, field_type, method, gradient)

        self._embeddings: EmbeddingTable | None = None
        emb_channels = time_embedding_dim or widths[0] * 4
        proj_channels = time_proj_channels or widths[0]
        self.time_proj = Timesteps(proj_channels, flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(proj_channels, emb_channels)
        self.class_embedding: nn.Module | None = None
        if class_embed_type == "timestep":
            self.class_embedding = TimestepEmbedding(proj_channels, emb_channels)
        elif class_embed_type == "identity":
            self.class_embedding = nn.Identity()
        elif num_class_embeds is not None:
            self.class_embedding = nn.Embedding(num_class_embeds, emb_channels)

        previous: int | None = None  # width of the block before, whose velocity may be carried over

        def field_config(level: int) -> FieldConfig:
            return FieldConfig(
                widths[level], emb_channels, integration_time, norm_num_groups, norm_eps, act_fn, dropout,
                initial_decay=initial_decay, norm_type=norm_type, hidden_channels=hidden[level],
            )  # fmt: skip

        def stage(name: str, level: int, num_blocks: int, with_attention: bool, after_skip: bool = False) -> _Stage:
            nonlocal previous
            width = widths[level]
            field = field_config(level)
            blocks: list[nn.Module] = []
            for i in range(num_blocks):
                block = BlockConfig(field, solver, f"{name}.blocks.{i}", field_type, initial_velocity, read_velocity)
                of_skip = width if after_skip and i == 0 else None
                given = {"carried": previous, "skips": of_skip}.get(initial_velocity)
                blocks.append(BLOCKS[block_type](block, given))
                previous = width
            return _Stage(blocks, [attention(width) for _ in blocks] if with_attention else None)

        def attention(width: int) -> Attention:
            head_dim = attention_head_dim or width
            return Attention(
                width,
                heads=width // head_dim,
                dim_head=head_dim,
                norm_num_groups=norm_num_groups,
                eps=norm_eps,
                residual_connection=True,
                bias=True,
                upcast_softmax=True,
                _from_deprecated_attn_block=True,
            )

        self.conv_in = nn.Conv2d(in_channels * patch_size**2, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        for i, width in enumerate(widths):
            with_attention = down_block_types[i] == "AttnDownBlock2D"
            self.down_blocks.append(stage(f"down_blocks.{i}", i, layers_per_block, with_attention))
            if i < levels - 1:
                self.downsamplers.append(nn.Conv2d(width, widths[i + 1], 3, stride=2, padding=1))
        self.mid_block = stage("mid_block", levels - 1, 1, add_attention) if mid_block_type is not None else None
        self.up_blocks = nn.ModuleList()
        self.merges = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        for i, width in enumerate(reversed(widths)):
            with_attention = up_block_types[i] == "AttnUpBlock2D"
            self.merges.append(_Merge(width))
            self.up_blocks.append(
                stage(f"up_blocks.{i}", levels - 1 - i, layers_per_block, with_attention, after_skip=True)
            )
            if i < levels - 1:
                self.upsamplers.append(_Upsample(width, widths[levels - 2 - i]))
        self.conv_norm_out = make_norm(field_config(0), widths[0])
        self.conv_act = get_activation(act_fn)
        self.conv_out = zeroed(nn.Conv2d(widths[0], out_channels * patch_size**2, 3, padding=1))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict what the model was trained to (the noise, `v` or the image) at a diffusion timestep.

        Args:
            sample: noisy images `(B, in_channels, H, W)`.
            timestep: the *diffusion* timestep: a number, a 0-d tensor, or one per image `(B,)`.
            class_labels: `(B,)`, required by and only allowed for class-conditional models.
            return_dict: give a `UNet2DOutput` (the prediction is its `sample`) rather than a tuple.

        Returns:
            The prediction, `(B, out_channels, H, W)`.
        """
        factor = self.config.patch_size * 2 ** (len(self.config.block_out_channels) - 1)
        if sample.ndim != 4 or sample.shape[1] != self.config.in_channels:
            raise ValueError(
                f"sample has shape {tuple(sample.shape)}; expected (B, {self.config.in_channels}, H, W), the "
                "model's in_channels"
            )
        _check_size(sample.shape[2], sample.shape[3], factor, "sample")
        if self.config.center_input_sample:
            sample = 2 * sample - 1.0

        table = None if torch.compiler.is_compiling() else self._embeddings
        if table is not None and class_labels is None and not torch.is_grad_enabled():
            number = _single(timestep)
            if number in table.rows:
                with table.at(number) as emb:
                    x = self._predict(sample, emb.expand(len(sample), -1))
                return UNet2DOutput(sample=x) if return_dict else (x,)
        x = self._predict(sample, self._embed(sample, timestep, class_labels))
        return UNet2DOutput(sample=x) if return_dict else (x,)

    def _predict(self, sample: Tensor, emb: Tensor) -> Tensor:
        patch_size = self.config.patch_size
        x = nn.functional.pixel_unshuffle(sample, patch_size) if patch_size > 1 else sample
        x = self.conv_in(x)

        skips, skip_velocities = [], []
        v: Tensor | None = None  # the velocity that the stage before ended with, if the next one is to know it
        carries = self.config.initial_velocity == "carried"
        through_skips = self.config.initial_velocity == "skips"
        for i, stage in enumerate(self.down_blocks):
            x, v = stage(x, emb, v if carries else None)
            skips.append(x)
            skip_velocities.append(v if through_skips else None)
            if i < len(self.downsamplers):
                x = self.downsamplers[i](x)
                v = nn.functional.avg_pool2d(v, 2) if carries and v is not None else None
        if self.mid_block is not None:
            x, v = self.mid_block(x, emb, v if carries else None)
        for i, stage in enumerate(self.up_blocks):
            known = v if carries else skip_velocities.pop()
            x, v = stage(self.merges[i](x, skips.pop()), emb, known)  # no name keeps the skip alive in the stage
            if i < len(self.upsamplers):
                x = self.upsamplers[i](x)
                v = (
                    nn.functional.interpolate(v, scale_factor=2.0, mode="nearest")
                    if carries and v is not None
                    else None
                )

        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        if patch_size > 1:
            x = nn.functional.pixel_shuffle(x, patch_size)
        return x

    def _embed(self, sample: Tensor, timestep: Tensor | float | int, class_labels: Tensor | None) -> Tensor:
        """Timestep and class to the embedding `(B, E)`, step by step as in `UNet2DModel`."""
        batch = sample.shape[0]
        timesteps = timestep if isinstance(timestep, Tensor) else torch.tensor(timestep)
        timesteps = timesteps.to(sample.device)
        if timesteps.ndim == 0:
            timesteps = timesteps[None]
        if timesteps.shape not in ((1,), (batch,)):
            raise ValueError(
                f"timestep has shape {tuple(timesteps.shape)}; expected a number, a 0-d tensor or one per image, "
                f"({batch},)"
            )
        timesteps = timesteps.expand(batch)
        # Timesteps computes in float32 whatever the model's dtype
        emb = self.time_embedding(self.time_proj(timesteps).to(self.dtype))
        if self.class_embedding is None:
            if class_labels is not None:
                raise ValueError("class_labels were given to a model without classes (num_class_embeds is None)")
            return emb
        if class_labels is None:
            raise ValueError("this model is class-conditional: pass class_labels, one per image")
        if self.config.class_embed_type == "timestep":
            class_labels = self.time_proj(class_labels).to(self.dtype)
        return emb + self.class_embedding(class_labels).to(emb.dtype)

    @contextlib.contextmanager
    def precompute_embeddings(self, timesteps: Tensor | Sequence[float]) -> Iterator[None]:
        """Within, evaluations at these timesteps use embeddings, scales and shifts that are computed here, all at once.

        They depend on the timestep and the ODE's time, not on the image: a sampling run needs each of them once, and
        not once per image and step. Takes effect without gradients, where the timestep is one number for all images;
        compiled models and other timesteps compute their own. Change neither weights nor solver within.

        Args:
            timesteps: numbers, or `(S,)`.

        Raises:
            ValueError: for class-conditional models, whose embeddings depend on the class too.
        """
        if self.class_embedding is not None:
            raise ValueError("embeddings of class-conditional models depend on the class and cannot be precomputed")
        numbers = [float(timestep) for timestep in timesteps]
        times: dict[AdaptiveScaleShift, list[float | Tensor]] = {
            module: [] for module in self.modules() if isinstance(module, AdaptiveScaleShift)
        }
        hooks = [
            module.register_forward_pre_hook(lambda module, arguments: times[module].append(arguments[0]))
            for module in times
        ]
        size = self.config.patch_size * 2 ** (len(self.config.block_out_channels) - 1)
        with torch.no_grad():
            sample = torch.zeros(1, self.config.in_channels, size, size, device=self.device, dtype=self.dtype)
            try:
                self.forward(sample, numbers[0])  # to see at which times the solver evaluates the fields
            finally:
                for hook in hooks:
                    hook.remove()
            emb = self._embed(sample.expand(len(numbers), -1, -1, -1), torch.tensor(numbers), None)
            self._embeddings = EmbeddingTable(numbers, emb, times)
        try:
            yield
        finally:
            self._embeddings = None

    def set_solver(
        self, num_steps: int | None = None, method: str | None = None, gradient: str | None = None
    ) -> "ContinuousUNet2DModel":
        """Change how the blocks integrate; what is None stays. The integration time stays, too: a step gets longer.

        More steps follow the same ODE more closely, fewer are faster. The change is saved with the model.

        Raises:
            ValueError: for settings that cannot work together; nothing is changed then.
        """
        config = self.config
        check_block(config.block_type, config.field_type, method or config.method, gradient or config.gradient)
        blocks = self._dynamic_blocks()
        changed = [block.solver.with_changes(num_steps=num_steps, method=method, gradient=gradient) for block in blocks]
        for block, solver in zip(blocks, changed, strict=True):
            block.solver = solver
        self.register_to_config(
            num_solver_steps=changed[0].num_steps, method=changed[0].method, gradient=changed[0].gradient
        )
        return self

    def solver_stats(self) -> dict[str, dict[str, Any]]:
        """Per dynamic block: method, gradient mode, steps, and evaluations in its last forward pass (`nfe`)."""
        return {
            block.name: {
                "method": block.solver.method,
                "gradient": block.solver.gradient,
                "num_steps": block.solver.num_steps,
                "nfe": block.last_nfe,
            }
            for block in self._dynamic_blocks()
        }

    def _dynamic_blocks(self) -> list[Any]:
        return [module for module in self.modules() if isinstance(module, tuple(BLOCKS.values()))]


# diffusers writes a class's module into model_index.json and later reads the class from there. It must be the name that
# people import, and stay when files move.
ContinuousUNet2DModel.__module__ = "continuous_unet"


def _single(timestep: Tensor | float | int) -> float | None:
    """The timestep, if it is one number for all images."""
    if isinstance(timestep, Tensor):
        return float(timestep) if timestep.ndim == 0 else None
    return float(timestep)


def _check_size(height: int, width: int, factor: int, name: str) -> None:
    if height % factor or width % factor:

        def nearest(size: int) -> str:
            below = size // factor * factor
            return f"{size}" if size == below else f"{below or factor} or {below + factor}"

        raise ValueError(
            f"{name} is {height}x{width}; this model needs multiples of {factor} (nearest: {nearest(height)} by "
            f"{nearest(width)}): pad or resize the images, or use fewer levels"
        )


def _check_hidden(hidden: tuple[int | None, ...], levels: int, norm_num_groups: int) -> None:
    if len(hidden) != levels:
        raise ValueError(
            f"field_channels has {len(hidden)} entries and block_out_channels {levels}: give one per level"
        )
    for width in hidden:
        if width is not None and (not isinstance(width, int) or width < 1 or width % norm_num_groups):
            raise ValueError(f"field_channels={hidden!r} must be multiples of norm_num_groups={norm_num_groups}")


def _check_architecture(
    in_channels: int,
    out_channels: int,
    widths: tuple[int, ...],
    down_block_types: tuple[str, ...],
    mid_block_type: str | None,
    up_block_types: tuple[str, ...],
    norm_num_groups: int,
    layers_per_block: int,
    patch_size: int,
    dropout: float,
    attention_head_dim: int | None,
    class_embed_type: str | None,
    num_class_embeds: int | None,
    *,
    mid_attention: bool,
) -> None:
    positive = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "layers_per_block": layers_per_block,
        "patch_size": patch_size,
        "norm_num_groups": norm_num_groups,
    }
    if num_class_embeds is not None:
        positive["num_class_embeds"] = num_class_embeds
    if attention_head_dim is not None:
        positive["attention_head_dim"] = attention_head_dim
    for name, value in positive.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1")
    if not widths or any(not isinstance(w, int) or isinstance(w, bool) or w < 1 for w in widths):
        raise ValueError(f"block_out_channels={widths!r} must hold at least one width, each an integer of at least 1")
    bad = [w for w in widths if w % norm_num_groups]
    if bad:
        raise ValueError(f"norm_num_groups={norm_num_groups} does not divide the width {bad[0]} of block_out_channels")
    for name, kinds, allowed in (
        ("down_block_types", down_block_types, _DOWN_BLOCK_TYPES),
        ("up_block_types", up_block_types, _UP_BLOCK_TYPES),
    ):
        if len(kinds) != len(widths):
            raise ValueError(
                f"{name} has {len(kinds)} entries and block_out_channels {len(widths)}: give one per level"
            )
        for kind in kinds:
            if kind not in allowed:
                raise ValueError(f"{name} holds {kind!r}; expected {' or '.join(map(repr, allowed))}")
    if mid_block_type not in ("UNetMidBlock2D", None):
        raise ValueError(f"mid_block_type={mid_block_type!r} must be 'UNetMidBlock2D' or None")
    if class_embed_type not in (None, "timestep", "identity"):
        raise ValueError(f"class_embed_type={class_embed_type!r} must be None, 'timestep' or 'identity'")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r} must lie in [0, 1)")
    with_attention = {w for w, kind in zip(widths, down_block_types, strict=True) if "Attn" in kind}
    with_attention |= {w for w, kind in zip(reversed(widths), up_block_types, strict=True) if "Attn" in kind}
    for width in {*with_attention, widths[-1]} if mid_attention else with_attention:
        if width % (attention_head_dim or width):
            raise ValueError(f"attention_head_dim={attention_head_dim} does not divide the width {width}")
