"""Random numbers that depend only on *which* number is drawn: counter-based, on the device of the model.

An image's noise follows from `(seed, stream, position)`. It is the same in every batch, in a resumed run, and for any
number of processes. The generator is Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011). Its integers are the same on every device, and those of an exported model's `runtime.py`.
"""

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from continuous_unet.base.devices import sent
from continuous_unet.base.randomness import derive_seed

WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_CHUNK = 2**15
"""The number of blocks that are computed at a time on a CPU, so that their words fit into its cache."""
Words = tuple[Tensor, Tensor, Tensor, Tensor]
Device = torch.device | str
Positions = Sequence[int] | Tensor
"""One number for each image, or their `halves`."""


class Stream(IntEnum):
    """The purposes that numbers are drawn for; no two streams share any. 0 is the noise of exported models' images."""

    TRAINING_NOISE = 1
    TRAINING_TIMES = 2
    VALIDATION = 3
    PICTURES = 4
    CALIBRATION = 5
    CONDITIONS = 6
    DEPTHS = 7
    DISTILLATION = 8
    DISTILLATION_STEPS = 9


def philox(key: tuple[int, int], counters: Words) -> Words:
    """Returns the four 32-bit words of Philox 4x32-10 for each counter.

    Args:
        key: two 32-bit words.
        counters: four int64 tensors of 32-bit values, of shapes that broadcast to each other.

    Returns:
        Four int64 tensors of the broadcast shape, with values 0 to 2**32 - 1.
    """
    c0, c1, c2, c3 = counters
    (k0, k1), (m0, m1) = key, _MULTIPLIERS
    # A product of two words overflows int64, but its 64 bits are right. Lower words are only combined with bits that
    # are masked afterwards, so the products stand for them until the end.
    for number in range(10):
        if number < 3:  # few words are distinct before every word depends on every counter
            first, second = c0 * m0, c2 * m1
            c0, c1, c2, c3 = ((second >> 32) ^ c1 ^ k0) & WORD, second, ((first >> 32) ^ c3 ^ k1) & WORD, first
        else:
            if number == 3:
                c0, c1, c2, c3 = (word.contiguous() for word in torch.broadcast_tensors(c0, c1, c2, c3))
                upper = torch.empty_like(c0)
            first, second = c0.mul_(m0), c2.mul_(m1)
            c0 = c1.bitwise_xor_(torch.bitwise_right_shift(second, 32, out=upper)).bitwise_xor_(k0).bitwise_and_(WORD)
            c2 = c3.bitwise_xor_(torch.bitwise_right_shift(first, 32, out=upper)).bitwise_xor_(k1).bitwise_and_(WORD)
            c1, c3 = second, first
        k0, k1 = (k0 + _KEY_STEPS[0]) & WORD, (k1 + _KEY_STEPS[1]) & WORD
    return c0, c1.bitwise_and_(WORD), c2, c3.bitwise_and_(WORD)


def normal(seed: int, stream: int, positions: Positions, shape: Sequence[int], device: Device = "cpu") -> Tensor:
    """Returns standard normal noise `(B, *shape)`, float32.

    On one device it is the same to the last bit however positions are divided into batches; between devices it differs
    by rounding.

    Args:
        seed: the seed of the run, 0 to 2**64 - 1.
        stream: the purpose, see `Stream`; 0 to 2**32 - 1.
        positions: one number for each of the B images, 0 to 2**64 - 1, such as its place in the data's sequence; or
            what `halves` makes of them.
        shape: the shape of an image, `(C, H, W)`.
        device: where the noise is computed.
    """
    count = math.prod(shape)
    blocks = torch.arange(-(-count // 4), device=device)
    words = halves(positions, blocks.device)
    chunk = number = words.shape[1]
    if blocks.device.type == "cpu":
        chunk = max(1, _CHUNK // max(1, len(blocks)))
    noise = torch.empty(number, len(blocks), 4, device=device)
    for start in range(0, number, chunk):
        w0, w1, w2, w3 = _words(seed, stream, words[:, start : start + chunk], blocks)
        _box_muller(w0, w1, noise[start : start + chunk, :, :2])
        _box_muller(w2, w3, noise[start : start + chunk, :, 2:])
    return noise.flatten(1)[:, :count].reshape(number, *shape)


def uniform(seed: int, stream: int, positions: Positions, device: Device = "cpu") -> Tensor:
    """Returns numbers `(B,)`, uniform in [0, 1), float32; the arguments are those of `normal`."""
    blocks = torch.arange(1, device=device)
    word = _words(seed, stream, halves(positions, blocks.device), blocks)[0]
    return (word[:, 0] >> 8).float() * 2.0**-24  # 24 bits are exact in float32


def halves(positions: Positions, device: torch.device) -> Tensor:
    """Returns the lower and the upper words of some positions, int64 `(2, B)`, on a device."""
    if isinstance(positions, Tensor):
        return positions
    words = [[position & WORD for position in positions], [position >> 32 & WORD for position in positions]]
    return sent(torch.tensor(words, dtype=torch.int64), device)


def _words(seed: int, stream: int, words: Tensor, blocks: Tensor) -> Words:
    """Returns the words of some blocks for each position, each `(B, blocks)`."""
    low, high = words[:, :, None]
    return philox((seed & WORD, seed >> 32 & WORD), (blocks[None], low, torch.full_like(low, stream), high))


def _box_muller(first: Tensor, second: Tensor, out: Tensor) -> None:
    """Writes two normal numbers, `(B, blocks, 2)`, which are made of two words, each `(B, blocks)`."""
    radius, angle = first.float().add_(0.5).mul_(2.0**-32), second.float().mul_(2 * math.pi * 2.0**-32)
    radius.log_().mul_(-2).sqrt_()
    torch.mul(radius, angle.cos(), out=out[..., 0])
    torch.mul(radius, angle.sin_(), out=out[..., 1])


def seed_dropout(seed: int, step: int, part: int, rank: int) -> None:
    """Seeds torch's global generators, which dropout draws from, for one forward pass of one process."""
    torch.manual_seed(derive_seed("dropout", seed, step, part, rank))
