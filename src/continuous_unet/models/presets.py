"""One function per published configuration: of `ContinuousUNet2DModel`, and of the discrete U-Nets beside it.

Each gives the constructor's keyword arguments, and keywords override:
`ContinuousUNet2DModel(**presets.base(sample_size=64))`. A preset of diffusers' `UNet2DModel` says so by `_class_name`,
as a saved `config.json` does; `continuous_unet.models.build.build_unet` makes either kind.
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
    """Ours for 32x32 images.

    One solver step a block, levels wider than two steps would allow at the cost, and an initial velocity that knows
    the timestep. What that is worth beside two narrower steps and the weight-tied control: docs/comparison.md.
    """
    return {
        "block_out_channels": (40, 56, 64),
        "num_solver_steps": 1,
        "initial_velocity": "timestep",
        "gradient": "backprop",
        **overrides,
    }


def base(**overrides: Any) -> dict[str, Any]:
    """Ours for 64x64x3: a 2x2 space-to-depth stem, so that no block runs at full resolution."""
    return {"block_out_channels": (96, 128, 160), "patch_size": 2, "attention_head_dim": 32, **overrides}


def restorer(**overrides: Any) -> dict[str, Any]:
    """Ours for restoration: 0.27 M parameters and a 2x2 space-to-depth stem.

    No attention, and each pixel normalised by itself: photographs can be cut into tiles. The timestep says little or
    nothing here, and gets a narrow embedding. For super-resolution by s, `patch_size=s` makes the blocks run at the
    resolution of the small image; `cunet train` sets it.
    """
    return {
        "block_out_channels": (40, 40, 40),
        "patch_size": 2,
        "norm_type": "pixel",
        "mid_block_type": None,
        "add_attention": False,
        "time_embedding_dim": 16,
        "gradient": "backprop",
        **overrides,
    }


def ddpm(**overrides: Any) -> dict[str, Any]:
    """The discrete side of comparisons at 64x64x3: diffusers' `UNet2DModel`, DDPM's architecture, 57.9 M parameters.

    Widths 64 to 512, two residual blocks a level, attention at 16x16 and in the middle.
    """
    return _discrete({"block_out_channels": (64, 128, 256, 512), **overrides})


def ddpm_small(**overrides: Any) -> dict[str, Any]:
    """The discrete side of comparisons at 32x32: `UNet2DModel` with doubling widths, 3.6 M parameters."""
    return _discrete({"block_out_channels": (32, 64, 128), **overrides})


def _discrete(arguments: dict[str, Any]) -> dict[str, Any]:
    widths = arguments["block_out_channels"]
    levels = len(widths)
    attention = levels - 2 if levels >= 4 else None  # the middle block has attention anyway
    return {
        "_class_name": "UNet2DModel",
        "down_block_types": tuple("AttnDownBlock2D" if i == attention else "DownBlock2D" for i in range(levels)),
        "up_block_types": tuple("AttnUpBlock2D" if levels - 1 - i == attention else "UpBlock2D" for i in range(levels)),
        "norm_num_groups": 32 if all(width % 32 == 0 for width in widths) else 8,
        **arguments,
    }


PRESETS: dict[str, Callable[..., dict[str, Any]]] = {
    preset.__name__: preset for preset in (paper, tiny, small, base, ddpm, ddpm_small, restorer)
}
"""The presets by name."""
