"""One function per published configuration of `ContinuousUNet2DModel`.

Each gives the constructor's keyword arguments, and keywords override:
`ContinuousUNet2DModel(**presets.base(sample_size=64))`.
This module imports nothing, so that the command line can list presets without waiting for torch.
"""

from collections.abc import Callable
from typing import Any


def paper(**overrides: Any) -> dict[str, Any]:
    """The configuration of "The Missing U for Efficient Diffusion Models" (arXiv 2310.20092), second-order form.

    As its text says: a general field, one step of RK4 (four evaluations) over unit time, the continuous adjoint
    (needs the `adaptive` extra to train). The paper gives no widths that we could read; these double by level, as its
    DDPM baseline's do. Meant for 32x32 and up.
    """
    return {
        "block_out_channels": (64, 128, 256),
        "norm_num_groups": 8,
        "field_type": "general",
        "num_solver_steps": 1,
        "integration_time": 1.0,
        "method": "rk4",
        "gradient": "adjoint",
        **overrides,
    }


def tiny(**overrides: Any) -> dict[str, Any]:
    """Ours for 16x16 grey images: 0.2 M parameters, trains in minutes on a CPU."""
    return {
        "block_out_channels": (24, 32, 32),
        "in_channels": 1,
        "out_channels": 1,
        "gradient": "backprop",  # memory is no concern at this size, and a training step is faster
        **overrides,
    }


def small(**overrides: Any) -> dict[str, Any]:
    """Ours for 32x32 images."""
    return {"block_out_channels": (32, 48, 64), "gradient": "backprop", **overrides}


def base(**overrides: Any) -> dict[str, Any]:
    """Ours for 64x64x3: a 2x2 space-to-depth stem, so that no block runs at full resolution."""
    return {"block_out_channels": (96, 128, 160), "patch_size": 2, "attention_head_dim": 32, **overrides}


PRESETS: dict[str, Callable[..., dict[str, Any]]] = {"paper": paper, "tiny": tiny, "small": small, "base": base}
"""The presets by name."""
