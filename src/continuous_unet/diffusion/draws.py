"""The random numbers of training: each image's from its place in the data's sequence, and from nothing before it."""

import torch
from torch import Tensor

from continuous_unet.base.randomness import derive_seed


def training_noise(
    seed: int, positions: range, shape: torch.Size | tuple[int, ...], num_train_timesteps: int
) -> tuple[Tensor, Tensor]:
    """Noise and timesteps of the images at some positions of the data's global sequence, on the CPU.

    They depend on `(seed, position)` alone, so neither a resumption nor another number of processes changes them.

    Args:
        seed: of the run.
        positions: of the batch's B images (`EpochSampler.positions`).
        shape: of an image, `(C, H, W)`.
        num_train_timesteps: T.

    Returns:
        Standard normal noise `(B, C, H, W)`, float32, and timesteps `(B,)`, 0 to T - 1.
    """
    noise, timesteps = [], []
    for position in positions:
        generator = torch.Generator().manual_seed(derive_seed("noise", seed, position))
        noise.append(torch.randn(shape, generator=generator))
        timesteps.append(torch.randint(num_train_timesteps, (), generator=generator))
    return torch.stack(noise), torch.stack(timesteps)


def index_noise(like: Tensor, seed: int, index: int) -> Tensor:
    """Standard normal noise of the shape of an image, the same whenever image `index` is looked at."""
    generator = torch.Generator().manual_seed(derive_seed("validation noise", seed, index))
    return torch.randn(like.shape, generator=generator)


def seed_dropout(seed: int, step: int, part: int, rank: int) -> None:
    """Seed torch's global generators, which dropout draws from, for one forward pass of one process."""
    torch.manual_seed(derive_seed("dropout", seed, step, part, rank))
