"""The two clocks of the dynamics: the diffusion's timestep (through `emb`) and the ODE's own time `t`.

The timestep itself is embedded by diffusers' `Timesteps` and `TimestepEmbedding`, as in `UNet2DModel`; this module
brings `t` in.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class OdeTimeFeatures(nn.Module):
    """Smooth features of the ODE's time: `cos` and `sin` of `k pi t / horizon`, k = 1 to `num_frequencies`.

    Few, slow frequencies, because a block takes few steps and must interpolate between them when `set_solver` changes
    their number.

    Args:
        horizon: end of the integration, so that `t / horizon` lies in [0, 1].
        num_frequencies: frequencies; the features are twice as many.
    """

    def __init__(self, horizon: float, num_frequencies: int = 4) -> None:
        super().__init__()
        self.horizon = horizon
        self.num_frequencies = num_frequencies

    def forward(self, t: float | Tensor, like: Tensor) -> Tensor:
        """`(2 * num_frequencies,)`, of the dtype and device of `like`."""
        if isinstance(t, Tensor):  # torchdiffeq's time
            angles = torch.stack([t * (k * math.pi / self.horizon) for k in range(1, self.num_frequencies + 1)])
            return torch.cat([angles.cos(), angles.sin()]).to(like)
        angles_list = [k * math.pi * t / self.horizon for k in range(1, self.num_frequencies + 1)]
        values = [math.cos(a) for a in angles_list] + [math.sin(a) for a in angles_list]
        return torch.tensor(values, dtype=like.dtype, device=like.device)


class AdaptiveScaleShift(nn.Module):
    """Scale and shift of a feature map, from both clocks: the paper's adaptive time embedding.

    `h (1 + scale) + shift` with `(scale, shift) = W silu(emb + U features(t))`: U-Nets of the DDPM family use the
    timestep alone.

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
        self.ready: dict[float, tuple[Tensor, Tensor]] | None = None
        """Scale and shift by `t`, where they have been computed before; set by `EmbeddingTable`."""

    def scale_shift(self, t: float | Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Both `(B, C, 1, 1)`, from `emb` `(B, E)`."""
        clocks = nn.functional.silu(emb + self.time(self.features(t, emb)))
        scale, shift = self.out(clocks)[:, :, None, None].chunk(2, dim=1)
        return scale, shift

    def forward(self, t: float | Tensor, emb: Tensor, h: Tensor) -> Tensor:
        """`h` `(B, C, H, W)` scaled and shifted; `emb` is `(B, E)`."""
        scale, shift = self.scale_shift(t, emb) if self.ready is None else self.ready[t]  # type: ignore[index]
        return torch.addcmul(h + shift, h, scale)


class EmbeddingTable:
    """Embeddings of some timesteps, with every scale and shift that follows from them, computed once.

    Args:
        timesteps: numbers, S of them.
        emb: their embeddings, `(S, E)`.
        times: the ODE times at which each module is evaluated.
    """

    def __init__(
        self, timesteps: list[float], emb: Tensor, times: dict[AdaptiveScaleShift, list[float | Tensor]]
    ) -> None:
        self.rows = {timestep: number for number, timestep in enumerate(timesteps)}
        self.emb = emb
        # times of adaptive methods are tensors, and others at every call
        self.ready = {
            clocks: {t: clocks.scale_shift(t, emb) for t in seen if not isinstance(t, Tensor)}
            for clocks, seen in times.items()
            if not any(isinstance(t, Tensor) for t in seen)
        }

    @contextlib.contextmanager
    def at(self, timestep: float) -> Iterator[Tensor]:
        """Let the modules take what belongs to one of the timesteps; gives its embedding, `(1, E)`."""
        row = slice(self.rows[timestep], self.rows[timestep] + 1)
        try:
            for clocks, values in self.ready.items():
                clocks.ready = {t: (scale[row], shift[row]) for t, (scale, shift) in values.items()}
            yield self.emb[row]
        finally:
            for clocks in self.ready:
                clocks.ready = None
