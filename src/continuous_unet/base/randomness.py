"""Random numbers that depend on *what* is drawn, and not on earlier draws.

Every random decision (noise of a training step, crop of an image, image number k of a sampling run) takes its seed from
the coordinates of the decision. No state is kept or saved: a resumed run, another batch size or another number of data
workers draws the same numbers.
"""

import hashlib


def derive_seed(*coordinates: int | str) -> int:
    """Hashes coordinates, such as `("noise", seed, step, rank)`, to a seed in [0, 2**63).

    The order of the coordinates matters, and equal coordinates always give the same seed, on every machine.
    """
    text = "\x1f".join(f"{type(c).__name__}:{c}" for c in coordinates)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
