"""One function per published configuration: of `ContinuousUNet2DModel`, and of the discrete U-Nets it is compared with.

Each returns the constructor's keyword arguments, and keywords override:
`ContinuousUNet2DModel(**presets.base(sample_size=64))`. A preset of another class, such as diffusers' `UNet2DModel`,
says so by `_class_name`, as a saved `config.json` does; `continuous_unet.models.build.build_unet` makes any of them.
This module imports nothing, so that the command line can list presets without waiting for torch.
"""

from collections.abc import Callable
from typing import Any

Arguments = dict[str, Any]


def paper(**overrides: object) -> Arguments:
    """Returns the second-order configuration of "The Missing U for Efficient Diffusion Models" (arXiv 2310.20092).

    It follows the text: a general field, one step of RK4 (four evaluations) over unit time, and the continuous adjoint,
    which needs the `adaptive` extra to train. We could not find the widths in the paper; these double from level to
    level, like those of its DDPM baseline. The preset is meant for 32x32 and up.
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


def tiny(**overrides: object) -> Arguments:
    """Returns our model for 16x16 grey images. It has 0.2 M parameters and trains in minutes on a CPU."""
    return {
        "block_out_channels": (24, 32, 32),
        "in_channels": 1,
        "out_channels": 1,
        "gradient": "backprop",  # memory is no concern at this size, and a training step is faster
        **overrides,
    }


def small(**overrides: object) -> Arguments:
    """Returns our model for 32x32 images.

    Each block takes one solver step, levels are wider than two steps would allow at the same cost, and the initial
    velocity knows the timestep. docs/comparison.md compares this with two steps in narrower levels, and with the
    weight-tied control.
    """
    return {
        "block_out_channels": (40, 56, 64),
        "num_solver_steps": 1,
        "initial_velocity": "timestep",
        "gradient": "backprop",
        **overrides,
    }


def base(**overrides: object) -> Arguments:
    """Returns our model for 64x64x3. A 2x2 space-to-depth stem spares the blocks the full resolution."""
    return {"block_out_channels": (96, 128, 160), "patch_size": 2, "attention_head_dim": 32, **overrides}


def restorer(**overrides: object) -> Arguments:
    """Returns our model for restoration. It has 0.27 M parameters and a 2x2 space-to-depth stem.

    It has no attention and normalises each pixel by itself, so that photographs can be cut into tiles. The timestep
    carries little or no information here, so its embedding is narrow. To upscale by a factor s, `patch_size=s` makes
    the blocks run at the resolution of the small image; `cunet train` sets it.
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


def clips(**overrides: object) -> Arguments:
    """Returns our model for grey clips of about 8 frames of 32x32: `ContinuousUNet3DModel`, 0.34 M parameters.

    Convolutions are factorised over space and time, and every level keeps all frames. A 2x2 space-to-depth stem spares
    the blocks the full resolution, and memory does not grow with the number of solver steps.
    """
    return {
        "_class_name": "ContinuousUNet3DModel",
        "block_out_channels": (24, 32, 40),
        "patch_size": 2,
        **overrides,
    }


def planner(**overrides: object) -> Arguments:
    """Returns our model for the plans of robots, about 16 time steps long: `ContinuousUNet1DModel`, 3.1 M parameters.

    Each block takes one solver step, because a control loop leaves little time, and there is no attention.
    """
    return {
        "_class_name": "ContinuousUNet1DModel",
        "block_out_channels": (96, 128, 160),
        "num_solver_steps": 1,
        "initial_velocity": "timestep",
        "gradient": "backprop",
        "add_attention": False,
        **overrides,
    }


def ddpm(**overrides: object) -> Arguments:
    """Returns the discrete side of comparisons at 64x64x3: `UNet2DModel` with DDPM's architecture, 57.9 M parameters.

    Widths 64 to 512, two residual blocks a level, attention at 16x16 and in the middle.
    """
    return _discrete({"block_out_channels": (64, 128, 256, 512), **overrides})


def ddpm_small(**overrides: object) -> Arguments:
    """Returns the discrete side of comparisons at 32x32: `UNet2DModel` with doubling widths, 3.6 M parameters."""
    return _discrete({"block_out_channels": (32, 64, 128), **overrides})


def _discrete(arguments: Arguments) -> Arguments:
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


PRESETS: dict[str, Callable[..., Arguments]] = {
    preset.__name__: preset for preset in (paper, tiny, small, base, ddpm, ddpm_small, restorer, clips, planner)
}
"""The presets by name."""
