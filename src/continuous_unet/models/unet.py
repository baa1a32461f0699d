"""The continuous U-Net of one, two or three dimensions; `unet_2d.py` gives it the interface of diffusers."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType

import torch
from diffusers.models.activations import get_activation
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from continuous_unet.models.blocks import Block, BlockConfig
from continuous_unet.models.conditioning import AdaptiveScaleShift, Conditioning, Place, PrecomputedEmbeddings
from continuous_unet.models.config import UNetConfig, check_size
from continuous_unet.models.controls import BLOCKS
from continuous_unet.models.layers import Merge, Upsample, conv, norm, pixel_shuffle, pixel_unshuffle, zeroed
from continuous_unet.ode import check_solver


class Stage(nn.Module):
    """The blocks of one level, each followed by attention if the level has it."""

    _gradient_checkpointing_func: Callable[..., Tensor]

    def __init__(self, blocks: list[Block], attentions: list[Attention] | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions) if attentions else None
        self.gradient_checkpointing = False  # set by ModelMixin.enable_gradient_checkpointing

    def forward(self, x: Tensor, conditioning: Conditioning, num_steps: int | None = None) -> Tensor:
        """Returns features of the shape of `x`, `(B, C, *size)`."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(self._run, x, conditioning, num_steps)
        return self._run(x, conditioning, num_steps)

    def _run(self, x: Tensor, conditioning: Conditioning, num_steps: int | None) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, conditioning, num_steps)
            if self.attentions is not None:
                x = _attend(self.attentions[i], x)
        return x


def _attend(attention: nn.Module, x: Tensor) -> Tensor:
    # diffusers' attention takes maps of two dimensions; the positions are a sequence to it anyway
    return attention(x) if x.ndim == 4 else attention(x.flatten(2).unsqueeze(-1)).view(x.shape)


class ContinuousUNet(nn.Module):
    """A U-Net whose residual stacks are second-order neural ODEs, for samples `(B, in_channels, *size)`.

    Nothing that belongs to one call is stored on the module: threads may share a model.

    Args:
        config: its settings.
        dim: dimensions of the samples: 1, 2 or 3.
    """

    def __init__(self, config: UNetConfig, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.architecture = config
        widths, levels, emb_channels = config.block_out_channels, config.levels, config.emb_channels

        self.time_proj = Timesteps(config.proj_channels, config.flip_sin_to_cos, config.freq_shift)
        self.time_embedding = TimestepEmbedding(config.proj_channels, emb_channels)
        self.jump_embedding: TimestepEmbedding | None = None
        if config.next_timestep_embedding:  # starts at zero, so that a model that gets it computes what it did
            self.jump_embedding = TimestepEmbedding(config.proj_channels, emb_channels)
            nn.init.zeros_(self.jump_embedding.linear_2.weight)
            nn.init.zeros_(self.jump_embedding.linear_2.bias)
        self.class_embedding: nn.Module | None = None
        if config.class_embed_type == "timestep":
            self.class_embedding = TimestepEmbedding(config.proj_channels, emb_channels)
        elif config.class_embed_type == "identity":
            self.class_embedding = nn.Identity()
        elif config.num_class_embeds is not None:
            self.class_embedding = nn.Embedding(config.num_class_embeds, emb_channels)

        def stage(name: str, level: int, num_blocks: int, with_attention: bool) -> Stage:
            settings = (config.field_type, config.initial_velocity, config.elastic_depth)
            configs = [
                BlockConfig(config.field(level, dim), config.solver, f"{name}.blocks.{i}", *settings)
                for i in range(num_blocks)
            ]
            blocks = [BLOCKS[config.block_type](block) for block in configs]
            return Stage(blocks, [_attention(config, widths[level]) for _ in blocks] if with_attention else None)

        patch_volume = config.patch_size**dim
        self.conv_in = conv(dim, config.in_channels * patch_volume, widths[0])
        self.down_blocks = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        for i, width in enumerate(widths):
            self.down_blocks.append(stage(f"down_blocks.{i}", i, config.layers_per_block, config.down_attention[i]))
            if i < levels - 1:
                self.downsamplers.append(conv(dim, width, widths[i + 1], stride=2))
        self.mid_block: Stage | None = None
        if config.mid_block_type is not None:
            self.mid_block = stage("mid_block", levels - 1, 1, config.add_attention)
        self.up_blocks = nn.ModuleList()
        self.merges = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        for i, width in enumerate(reversed(widths)):
            level = levels - 1 - i
            self.merges.append(Merge(dim, width))
            self.up_blocks.append(stage(f"up_blocks.{i}", level, config.layers_per_block, config.up_attention[i]))
            if level > 0:
                self.upsamplers.append(Upsample(dim, width, widths[level - 1]))

        self.conv_norm_out = norm(config.norm_type, widths[0], config.norm_num_groups, config.norm_eps)
        self.conv_act = get_activation(config.act_fn)
        self.conv_out = zeroed(conv(dim, widths[0], config.out_channels * patch_volume))

    @property
    def size_multiple(self) -> int:
        """The number that each side of a sample must be a multiple of."""
        return self.architecture.size_multiple

    @property
    def _compute_dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    def predict(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        num_solver_steps: int | None = None,
        embeddings: PrecomputedEmbeddings | None = None,
        *,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        next_timestep: Tensor | float | None = None,
    ) -> Tensor:
        """Returns the prediction, `(B, out_channels, *size)`; see `ContinuousUNet2DModel.forward`."""
        architecture = self.architecture
        if sample.ndim != 2 + self.dim or sample.shape[1] != architecture.in_channels:
            sides = ", ".join(("D", "H", "W")[-self.dim :])
            raise ValueError(
                f"sample has shape {tuple(sample.shape)}; expected (B, {architecture.in_channels}, {sides}), the "
                "model's in_channels"
            )
        check_size("sample", tuple(sample.shape[2:]), self.size_multiple)
        if num_solver_steps is not None:
            block = self._blocks()[0]
            check_solver(block.solver.method, block.solver.gradient, num_solver_steps)
        if encoder_hidden_states is not None or encoder_attention_mask is not None:
            raise ValueError("encoder_hidden_states were given to a model without text (cross_attention_dim is None)")
        conditioning: Conditioning | None = None
        if embeddings is not None and not torch.compiler.is_compiling():
            if embeddings.model is not self:
                raise ValueError("these embeddings were precomputed by another model")
            if class_labels is None and not torch.is_grad_enabled():  # a table carries no gradient
                conditioning = embeddings.at(timestep, sample.shape[0], next_timestep)
        if conditioning is None:
            embedding = self._embed(timestep, class_labels, sample.shape[0], sample.device, next_timestep)
            conditioning = Conditioning(embedding)

        x = 2 * sample - 1.0 if architecture.center_input_sample else sample
        x = self.conv_in(pixel_unshuffle(x, architecture.patch_size))
        skips = []
        for i, stage in enumerate(self.down_blocks):
            x = stage(x, conditioning, num_solver_steps)
            skips.append(x)
            if i < len(self.downsamplers):
                x = self.downsamplers[i](x)
        if self.mid_block is not None:
            x = self.mid_block(x, conditioning, num_solver_steps)
        for i, stage in enumerate(self.up_blocks):
            x = stage(self.merges[i](x, skips.pop()), conditioning, num_solver_steps)
            if i < len(self.upsamplers):
                x = self.upsamplers[i](x)
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        return pixel_shuffle(x, architecture.patch_size)

    def _embed(
        self,
        timestep: Tensor | float,
        class_labels: Tensor | None,
        batch: int,
        device: torch.device,
        next_timestep: Tensor | float | None = None,
    ) -> Tensor:
        """Returns the embedding of timestep, next timestep and class, `(B, E)`, computed as in `UNet2DModel`."""
        timesteps = _per_image("timestep", timestep, batch, device)
        # Timesteps computes in float32 whatever the model's dtype
        emb = self.time_embedding(self.time_proj(timesteps).to(self._compute_dtype))
        if self.jump_embedding is not None:
            end = timesteps if next_timestep is None else _per_image("next_timestep", next_timestep, batch, device)
            emb = emb + self.jump_embedding(self.time_proj(timesteps - end).to(self._compute_dtype))
        elif next_timestep is not None:
            raise ValueError("next_timestep was given to a model without next_timestep_embedding; leave it out")
        if self.class_embedding is None:
            if class_labels is not None:
                raise ValueError("class_labels were given to a model without classes (num_class_embeds is None)")
            return emb
        if class_labels is None:
            raise ValueError("this model is class-conditional: pass class_labels, one per image")
        if self.architecture.class_embed_type == "timestep":
            class_labels = self.time_proj(class_labels).to(self._compute_dtype)
        return emb + self.class_embedding(class_labels).to(emb.dtype)

    def precompute_embeddings(
        self,
        timesteps: Tensor | Sequence[float],
        num_solver_steps: int | None = None,
        next_timesteps: Tensor | Sequence[float] | None = None,
    ) -> PrecomputedEmbeddings:
        """Computes the embeddings of these timesteps, and the scales and shifts that follow from them, all at once.

        They depend on the timestep and the ODE's time, not on the image. So a sampling run needs each of them once, and
        not once per image and solver step. Pass the result as `embeddings` at every evaluation; the model does not
        store it. It is used without gradients, if the timestep is one number for all images. Other timesteps, compiled
        models, and solver steps at other times compute what is missing.

        Args:
            timesteps: the diffusion timesteps, as numbers or as a tensor `(S,)`.
            num_solver_steps: solver steps of the calls that will use the result; the model's own if None.
            next_timesteps: where each of them jumps to, for models with `next_timestep_embedding`.

        Raises:
            ValueError: for class-conditional models, whose embeddings depend on the class too.
        """
        if self.class_embedding is not None:
            raise ValueError("embeddings of class-conditional models depend on the class and cannot be precomputed")
        numbers = [float(timestep) for timestep in timesteps]
        jumps = None if next_timesteps is None else [float(timestep) for timestep in next_timesteps]
        by_row: list[dict[Place, tuple[Tensor, Tensor]]] = [{} for _ in numbers]
        with torch.no_grad():
            following = None if jumps is None else torch.tensor(jumps)
            emb = self._embed(torch.tensor(numbers), None, len(numbers), self.conv_in.weight.device, following)
            for block in self._blocks():
                own = block.at_depth(Conditioning(emb), num_solver_steps)
                for t in dict.fromkeys(block.times(num_solver_steps) or ()):
                    for clocks in (module for module in block.modules() if isinstance(module, AdaptiveScaleShift)):
                        rows = zip(*(part.split(1) for part in clocks.scale_shift(t, own.embedding)), strict=True)
                        for table, row in zip(by_row, rows, strict=True):
                            table[clocks, t, own.step_size] = row
        conditionings = [
            Conditioning(row, MappingProxyType(known)) for row, known in zip(emb.split(1), by_row, strict=True)
        ]
        keys = zip(numbers, [None] * len(numbers) if jumps is None else jumps, strict=True)
        return PrecomputedEmbeddings(self, MappingProxyType(dict(zip(keys, conditionings, strict=True))))

    def solver_stats(self) -> dict[str, dict[str, object]]:
        """Returns `method`, `gradient`, `num_steps` and `nfe` of each block, by its name.

        `nfe` is the number of evaluations of the field in a forward pass; None for adaptive methods.
        """
        stats: dict[str, dict[str, object]] = {}
        for block in self._blocks():
            times, solver = block.times(), block.solver
            stats[block.name] = {name: getattr(solver, name) for name in ("method", "gradient", "num_steps")}
            stats[block.name]["nfe"] = None if times is None else len(times)
        return stats

    def _blocks(self) -> list[Block]:
        return [module for module in self.modules() if isinstance(module, Block)]


def _per_image(name: str, timestep: Tensor | float, batch: int, device: torch.device) -> Tensor:
    """Returns one timestep for each image, `(B,)`."""
    timesteps = timestep if isinstance(timestep, Tensor) else torch.tensor(timestep)
    timesteps = timesteps.to(device)
    if timesteps.ndim == 0:
        timesteps = timesteps[None]
    if timesteps.shape not in ((1,), (batch,)):
        raise ValueError(
            f"{name} has shape {tuple(timesteps.shape)}; expected a number, a 0-d tensor or one per image, ({batch},)"
        )
    return timesteps.expand(batch)


@contextlib.contextmanager
def count_evaluations(unet: nn.Module) -> Iterator[Counter[str]]:
    """Counts the evaluations of each block's field inside this context, by the block's name.

    It is meant for measurements: it puts hooks on the blocks, and counts the evaluations of all threads. It does not
    count those of compiled blocks.
    """
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as hooks:
        for block in (module for module in unet.modules() if isinstance(module, Block)):
            trunk = block.field.get_submodule("trunk")
            hook = trunk.register_forward_pre_hook(lambda *_, name=block.name: counts.update([name]))
            hooks.enter_context(hook)
        yield counts


def _attention(config: UNetConfig, width: int) -> Attention:
    head_dim = config.attention_head_dim or width
    return Attention(
        width,
        heads=width // head_dim,
        dim_head=head_dim,
        norm_num_groups=config.norm_num_groups,
        eps=config.norm_eps,
        residual_connection=True,
        bias=True,
        upcast_softmax=True,
        _from_deprecated_attn_block=True,
    )
