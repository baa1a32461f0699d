"""The continuous U-Net of one, two or three dimensions; `unet_2d.py` gives it the interface of diffusers."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from diffusers.models.activations import get_activation
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from continuous_unet.models.attention import (
    checked_text,
    cross_attention,
    mean_of_tokens,
    self_attention,
    text_keys_values,
)
from continuous_unet.models.blocks import Block, BlockConfig
from continuous_unet.models.conditioning import (
    AdaptiveScaleShift,
    Conditioning,
    Place,
    PrecomputedEmbeddings,
)
from continuous_unet.models.config import UNetConfig, check_size
from continuous_unet.models.controls import BLOCKS
from continuous_unet.models.layers import Merge, Upsample, conv, norm, pixel_shuffle, pixel_unshuffle, zeroed
from continuous_unet.models.stages import Stage
from continuous_unet.models.waves import MIXINGS
from continuous_unet.ode import check_solver
from continuous_unet.text.transformer import TextTransformer


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
            attention = MIXINGS.get(config.attention_type, self_attention)
            attentions: list[nn.Module] | None = (
                [attention(config, widths[level], dim) for _ in blocks] if with_attention else None
            )
            return Stage(blocks, attentions)

        kept, factorised = config.kept_axes(dim), config.factorised
        strides = (1,) * kept + (2,) * (dim - kept)
        factors = tuple(map(float, strides)) if kept else None
        patch_volume = config.patch_size ** (dim - kept)
        self.conv_in = conv(dim, config.in_channels * patch_volume, widths[0], factorised=factorised)
        self.down_blocks = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        for i, width in enumerate(widths):
            self.down_blocks.append(stage(f"down_blocks.{i}", i, config.layers_per_block, config.down_attention[i]))
            if i < levels - 1:
                self.downsamplers.append(conv(dim, width, widths[i + 1], stride=strides, factorised=factorised))
        self.mid_block: Stage | None = None
        if config.mid_block_type is not None:
            self.mid_block = stage("mid_block", levels - 1, 1, config.mid_attention)
        self.up_blocks = nn.ModuleList()
        self.merges = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        for i, width in enumerate(reversed(widths)):
            level = levels - 1 - i
            self.merges.append(Merge(dim, width))
            self.up_blocks.append(stage(f"up_blocks.{i}", level, config.layers_per_block, config.up_attention[i]))
            if level > 0:
                self.upsamplers.append(Upsample(dim, width, widths[level - 1], factors, factorised))

        self.conv_norm_out = norm(config.norm_type, widths[0], config.norm_num_groups, config.norm_eps)
        self.conv_act = get_activation(config.act_fn)
        self.conv_out = zeroed(conv(dim, widths[0], config.out_channels * patch_volume, factorised=factorised))
        self.text_embedding: nn.Linear | None = None
        if config.cross_attention_dim is not None:
            self.text_embedding = zeroed(nn.Linear(config.cross_attention_dim, emb_channels))
            for lowest in (self.down_blocks[-1], self.mid_block, self.up_blocks[0]):
                if isinstance(lowest, Stage):
                    attentions = [cross_attention(config, widths[-1]) for _ in lowest.blocks]
                    lowest.cross_attentions = nn.ModuleList(attentions)
        self.text_encoder = None if config.text is None else TextTransformer(config.text)

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
        num_solver_steps: int | Tensor | None = None,
        embeddings: PrecomputedEmbeddings | None = None,
        *,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
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
        check_size("sample", tuple(sample.shape[2:]), architecture.size_multiples(self.dim))
        if num_solver_steps is not None:
            block = self._blocks()[0]
            check_solver(block.solver.method, block.solver.gradient, num_solver_steps)
        batch = sample.shape[0]
        if input_ids is not None:
            if encoder_hidden_states is not None:
                raise ValueError("input_ids and encoder_hidden_states are two forms of a text; give one of them")
            encoder_hidden_states, encoder_attention_mask = self.encode_text(input_ids)
        given = {
            "class_labels": class_labels,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
        }
        conditioning: Conditioning | None = None
        if embeddings is not None:
            if embeddings.model is not self:
                raise ValueError(
                    "these embeddings were precomputed by another model; call precompute_embeddings of this model"
                )
            if all(value is None for value in given.values()):
                given |= embeddings.conditions_of(batch)
                # A table carries no gradient, and a compiled model would be compiled again for each timestep of it.
                if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
                    conditioning = embeddings.at(timestep, batch, next_timestep)
        if conditioning is None:
            conditioning = self._condition(timestep, batch, sample.device, next_timestep=next_timestep, **given)

        x = 2 * sample - 1.0 if architecture.center_input_sample else sample
        x = self.conv_in(pixel_unshuffle(x, architecture.patch_size, architecture.kept_axes(self.dim)))
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
        return pixel_shuffle(x, architecture.patch_size, architecture.kept_axes(self.dim))

    def encode_text(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `encoder_hidden_states` and `encoder_attention_mask` of texts, which sampling needs once.

        Args:
            input_ids: tokens `(B, L)` for the built-in encoder, 0 for padding.

        Raises:
            ValueError: for a model without that encoder, and for more tokens than it was made for.
        """
        if self.text_encoder is None:
            raise ValueError("input_ids were given to a model without a text encoder (text_encoder_config is None)")
        return self.text_encoder(input_ids)

    def _condition(
        self,
        timestep: Tensor | float,
        batch: int,
        device: torch.device,
        *,
        next_timestep: Tensor | float | None = None,
        class_labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> Conditioning:
        """Returns the conditioning of one evaluation."""
        embedding = self._embed(timestep, class_labels, batch, device, next_timestep)
        width, text, mask = self.architecture.cross_attention_dim, encoder_hidden_states, encoder_attention_mask
        if width is None or self.text_embedding is None:
            if text is not None or mask is not None:
                raise ValueError(
                    "encoder_hidden_states were given to a model without text (cross_attention_dim is None)"
                )
            return Conditioning(embedding)
        if text is None:
            raise ValueError(f"this model is conditioned on text: pass encoder_hidden_states (B, L, {width})")
        text, mask = checked_text(text, mask, batch, width)
        embedding = embedding + self.text_embedding(mean_of_tokens(text, mask).to(embedding.dtype))
        return Conditioning(embedding, encoder_hidden_states=text.to(embedding.dtype), encoder_attention_mask=mask)

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
        *,
        class_labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> PrecomputedEmbeddings:
        """Computes the embeddings of these timesteps, and the scales and shifts that follow from them, all at once.

        They depend on the timestep, the conditions and the ODE's time, not on the image. So a sampling run needs each
        of them once, and not once per image and solver step. Pass the result as `embeddings` at every evaluation, in
        place of the conditions; the model does not store it. It is used without gradients, if the timestep is one
        number for all images. Other timesteps, compiled models, and solver steps at other times compute what is
        missing.

        Args:
            timesteps: the diffusion timesteps, as numbers or as a tensor `(S,)`.
            num_solver_steps: solver steps of the calls that will use the result; the model's own if None.
            next_timesteps: where each of them jumps to, for models with `next_timestep_embedding`.
            class_labels: G classes, for a class-conditional model. The conditions share the images of a batch equally:
                with B images, each is that of B / G images in a row.
            encoder_hidden_states: G texts `(G, L, D)`, for a model that is conditioned on text.
            encoder_attention_mask: which of their tokens count, bool `(G, L)`; all if None.

        Raises:
            ValueError: for conditions that do not fit the model.
        """
        numbers = [float(timestep) for timestep in timesteps]
        given = {
            "class_labels": class_labels,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
        }
        conditions = {name: value for name, value in given.items() if value is not None}
        groups = max((len(value) for value in conditions.values()), default=1)
        jumps = None if next_timesteps is None else [float(timestep) for timestep in next_timesteps]
        by_row: list[dict[Place, tuple[Tensor, Tensor]]] = [{} for _ in numbers]
        with torch.no_grad():
            # the conditions of the first timestep, those of the second, …
            repeated = {
                name: value.repeat(len(numbers), *(1,) * (value.ndim - 1)) for name, value in conditions.items()
            }
            times = torch.tensor(numbers).repeat_interleave(groups)
            following = None if jumps is None else torch.tensor(jumps).repeat_interleave(groups)
            device = self.conv_in.weight.device
            emb = self._condition(times, len(times), device, next_timestep=following, **repeated).embedding
            for block in self._blocks():
                own = block.at_depth(Conditioning(emb), num_solver_steps)
                for t in dict.fromkeys(block.times(num_solver_steps) or ()):
                    for clocks in (module for module in block.modules() if isinstance(module, AdaptiveScaleShift)):
                        rows = zip(*(part.split(groups) for part in clocks.scale_shift(t, own.embedding)), strict=True)
                        for table, row in zip(by_row, rows, strict=True):
                            table[clocks, t, own.step_size] = row
            text = self._text_table(groups, encoder_hidden_states, encoder_attention_mask)
        conditionings = [
            text._replace(embedding=row, scale_shifts=MappingProxyType(known))
            for row, known in zip(emb.split(groups), by_row, strict=True)
        ]
        keys = zip(numbers, [None] * len(numbers) if jumps is None else jumps, strict=True)
        by_timestep = MappingProxyType(dict(zip(keys, conditionings, strict=True)))
        return PrecomputedEmbeddings(self, by_timestep, MappingProxyType(conditions))

    def _text_table(self, groups: int, text: Tensor | None, mask: Tensor | None) -> Conditioning:
        """Returns a `Conditioning` with what evaluations with G texts have in common, and no embedding yet."""
        width, nothing = self.architecture.cross_attention_dim, Conditioning(torch.empty(0))
        if text is None or width is None:
            return nothing
        text, mask = checked_text(text, mask, groups, width)
        text = text.to(self._compute_dtype)
        attentions = (a for m in self.modules() if isinstance(m, Stage) for a in m.cross_attentions or ())
        known = MappingProxyType({a: text_keys_values(a, text) for a in attentions})
        return nothing._replace(encoder_hidden_states=text, encoder_attention_mask=mask, keys_values=known)

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

    def field_evaluations(self, calls: Mapping[int | None, int]) -> int | None:
        """Returns how many times all fields together are evaluated in some calls; None for adaptive methods.

        Args:
            calls: the number of calls by their number of solver steps, None for the model's own.
        """
        total = 0
        for num_steps, count in calls.items():
            for block in self._blocks():
                times = block.times(num_steps)
                if times is None:
                    return None
                total += count * len(times)
        return total

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
