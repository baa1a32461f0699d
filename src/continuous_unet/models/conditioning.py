"""The inputs of a field besides position and velocity: the diffusion's timestep, and the ODE's own time `t`.

The timestep is embedded by diffusers' `Timesteps` and `TimestepEmbedding`, as in `UNet2DModel`. This module adds `t`.
Classes and the mean of a text join that embedding; the text itself is for cross-attention (`attention.py`).
Everything that belongs to one evaluation of a model is in a `Conditioning`, which is handed down the call. Nothing of
it is stored on a module, so that threads can share a model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Place = tuple["AdaptiveScaleShift", float, float | None]
"""A module, an ODE time, and the length of the solver steps where the blocks know it."""
ScaleShifts = Mapping[Place, tuple[Tensor, Tensor]]
"""Scale and shift `(G, C)` by place, for G conditions that share the images of a batch equally."""
KeysValues = Mapping[nn.Module, tuple[Tensor, Tensor]]
"""Keys and values `(G, heads, L, C / heads)` of a text, by cross-attention."""


class Conditioning(NamedTuple):
    """The conditions of one evaluation of a U-Net. It is immutable, and blocks hand it to their fields.

    A new kind of condition becomes a new field of this class.
    """

    embedding: Tensor
    """The embedding of everything that is one vector for an image, such as timestep and class: `(B, E)`."""
    scale_shifts: ScaleShifts | None = None
    """Scales and shifts of this embedding that were computed before; the others are computed where they are needed."""
    step_size: float | None = None
    """The length of a solver step of the block that this was handed to, 0-d in an exported graph that is given the
    number of steps; None in models without elastic depth."""
    encoder_hidden_states: Tensor | None = None
    """A text, which cross-attention reads: a vector for each of its tokens, `(B, L, D)`. No field takes it."""
    encoder_attention_mask: Tensor | None = None
    """Which tokens count, bool `(B, L)`; all of them if None."""
    keys_values: KeysValues | None = None
    """Keys and values of this text that were computed before."""

    def for_fields(self) -> "Conditioning":
        """Returns what fields take, without the text: a solver looks for a gradient of everything that it is given."""
        if self.encoder_hidden_states is None:
            return self
        return self._replace(encoder_hidden_states=None, encoder_attention_mask=None, keys_values=None)


class OdeTimeFeatures(nn.Module):
    """Smooth features of the ODE's time: `cos` and `sin` of `k pi t / horizon`, k = 1 to `num_frequencies`.

    The frequencies are few and low: a block takes few solver steps and must interpolate when their number changes.

    Args:
        horizon: end of the integration, so that `t / horizon` lies in [0, 1].
        num_frequencies: number of frequencies; each gives two features.
    """

    def __init__(self, horizon: float, num_frequencies: int = 4) -> None:
        super().__init__()
        self.horizon = horizon
        self.num_frequencies = num_frequencies

    def forward(self, t: float | Tensor, like: Tensor) -> Tensor:
        """Returns the features `(2 * num_frequencies,)`, with the dtype and device of `like`."""
        if isinstance(t, Tensor):  # torchdiffeq's time
            angles = torch.stack([t * (k * math.pi / self.horizon) for k in range(1, self.num_frequencies + 1)])
            return torch.cat([angles.cos(), angles.sin()]).to(like)
        angles_list = [k * math.pi * t / self.horizon for k in range(1, self.num_frequencies + 1)]
        values = [math.cos(a) for a in angles_list] + [math.sin(a) for a in angles_list]
        return torch.tensor(values, dtype=like.dtype, device=like.device)


class AdaptiveScaleShift(nn.Module):
    """The adaptive time embedding of arXiv 2310.20092: it scales and shifts a feature map by both clocks.

    It computes `h (1 + scale) + shift` with `(scale, shift) = W silu(emb + U features(t))`. U-Nets of the DDPM family
    use the timestep alone.

    Args:
        emb_channels: width E of the timestep embedding.
        channels: width C of the feature map.
        horizon: end of the ODE's time.
    """

    def __init__(self, emb_channels: int, channels: int, horizon: float) -> None:
        super().__init__()
        self.features = OdeTimeFeatures(horizon)
        self.time = nn.Linear(2 * self.features.num_frequencies, emb_channels)
        self.out = nn.Linear(emb_channels, 2 * channels)

    def scale_shift(self, t: float | Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scale and shift, both `(B, C)`, for the embedding `emb` `(B, E)` at ODE time `t`."""
        scale, shift = self.out(nn.functional.silu(emb + self.time(self.features(t, emb)))).chunk(2, dim=1)
        return scale, shift

    def factors(self, t: float | Tensor, conditioning: Conditioning, batch: int) -> tuple[Tensor, Tensor]:
        """Returns scale and shift, `(B, C)` or `(1, C)`, from those that were computed before if they are there."""
        known = None
        # A compiled model computes its own, because it would be compiled again for every timestep of the table.
        if not torch.compiler.is_compiling() and conditioning.scale_shifts and not isinstance(t, Tensor):
            known = conditioning.scale_shifts.get((self, t, conditioning.step_size))
        if known is None:
            return self.scale_shift(t, conditioning.embedding)
        scale, shift = (shared(part, batch) for part in known)
        return scale, shift

    def forward(self, t: float | Tensor, conditioning: Conditioning, h: Tensor) -> Tensor:
        """Returns `h` `(B, C, *size)`, scaled and shifted."""
        return scale_and_shift(h, *self.factors(t, conditioning, h.shape[0]))


class StepSizeEmbedding(nn.Module):
    """A learned vector that tells a block how long its solver steps are: an embedding of the logarithm of their length.

    A model of elastic depth takes few long steps or many short ones over the same integration time, and the best
    update differs between them. The vector is zero at first, so that a trained model can be given this embedding
    without a change of what it computes.

    Args:
        emb_channels: width E of the timestep embedding, which the vector is added to.
        horizon: end of the ODE's time.
        num_frequencies: number of frequencies; each gives two features.
    """

    octaves = 8.0
    """The lowest frequency turns by half a circle from one step to 2^8 of them."""

    def __init__(self, emb_channels: int, horizon: float, num_frequencies: int = 4) -> None:
        super().__init__()
        self.horizon = horizon
        self.num_frequencies = num_frequencies
        self.out = nn.Linear(2 * num_frequencies, emb_channels, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, h: float | Tensor, like: Tensor) -> Tensor:
        """Returns the vector `(E,)` for solver steps of length `h`, with the dtype and device of `like`."""
        angles: list[Any]
        if isinstance(h, Tensor):  # an exported network that is given the number of solver steps
            angles = [k * math.pi / self.octaves * torch.log2(self.horizon / h) for k in self._frequencies]
            features = torch.stack([function(a) for function in (torch.cos, torch.sin) for a in angles]).to(like)
        else:
            angles = [k * math.pi / self.octaves * math.log2(self.horizon / h) for k in self._frequencies]
            values = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
            features = torch.tensor(values, dtype=like.dtype, device=like.device)
        return self.out(features)

    @property
    def _frequencies(self) -> range:
        return range(1, self.num_frequencies + 1)


def scale_and_shift(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Returns `h (1 + scale) + shift` for `h` `(B, C, *size)`, and scale and shift `(B, C)`."""
    return torch.addcmul(h + over_map(shift, h), h, over_map(scale, h))


def over_map(rows: Tensor, h: Tensor) -> Tensor:
    """Returns `rows` `(B, C)` with axes of length one, so that they broadcast against a map `h` `(B, C, *size)`."""
    everywhere = (..., *(None,) * (h.ndim - 2))
    return rows[everywhere]


def shared(rows: Tensor, batch: int) -> Tensor:
    """Returns rows `(G, ...)` as `(batch, ...)`: each is that of `batch / G` images in a row. A single one is kept."""
    count = rows.shape[0]
    if count in (1, batch):
        return rows
    return rows[:, None].expand(-1, batch // count, *rows.shape[1:]).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class PrecomputedEmbeddings:
    """The conditioning of some timesteps, computed once by `ContinuousUNet2DModel.precompute_embeddings`.

    It is valid for the model that made it, with its present weights. It is immutable, so threads may share it.
    """

    model: nn.Module
    by_timestep: Mapping[tuple[float, float | None], Conditioning]
    """By timestep and next timestep."""
    conditions: Mapping[str, Tensor]
    """The G conditions that it is for, as arguments of the model's call; empty for an unconditional model."""

    def conditions_of(self, batch: int) -> dict[str, Tensor]:
        """Returns the conditions of each of the images of a batch.

        Raises:
            ValueError: if the conditions cannot share the images equally.
        """
        for rows in self.conditions.values():
            if batch % rows.shape[0]:
                raise ValueError(
                    f"these embeddings are for {rows.shape[0]} conditions, which {batch} images cannot share; the "
                    f"number of images must be a multiple of {rows.shape[0]}"
                )
        return {name: shared(rows, batch).expand(batch, *rows.shape[1:]) for name, rows in self.conditions.items()}

    def at(
        self, timestep: Tensor | float, batch: int, next_timestep: Tensor | float | None = None
    ) -> Conditioning | None:
        """Returns the conditioning of a batch at one timestep; None for one timestep per image, or an unknown one."""
        if any(isinstance(time, Tensor) and time.ndim for time in (timestep, next_timestep)):
            return None
        known = self.by_timestep.get((float(timestep), None if next_timestep is None else float(next_timestep)))
        return None if known is None else known._replace(embedding=shared(known.embedding, batch).expand(batch, -1))
