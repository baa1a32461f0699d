"""Small, fast diffusion models: U-Nets whose blocks are second-order neural ODEs.

`import continuous_unet` is enough for `diffusers.DiffusionPipeline.from_pretrained` to find our classes in a
`model_index.json`. Names are loaded on first use, so that `cunet --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "ContinuousUNet2DModel": "continuous_unet.models.unet_2d",
    "DenoisingPipeline": "continuous_unet.tasks.denoise.pipeline",
    "DiffusionSamplingPipeline": "continuous_unet.tasks.generate.pipeline",
    "InpaintingPipeline": "continuous_unet.tasks.inpaint.pipeline",
    "SuperResolutionPipeline": "continuous_unet.tasks.upscale.pipeline",
    # diffusers asks the module that a pipeline names for this base class, to learn how to load what is in it
    "ModelMixin": "diffusers.models.modeling_utils",
}

__all__ = [
    "ContinuousUNet2DModel",
    "DenoisingPipeline",
    "DiffusionSamplingPipeline",
    "InpaintingPipeline",
    "SuperResolutionPipeline",
    "__version__",
]

if TYPE_CHECKING:
    from continuous_unet.models.unet_2d import ContinuousUNet2DModel
    from continuous_unet.tasks.denoise.pipeline import DenoisingPipeline
    from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
    from continuous_unet.tasks.inpaint.pipeline import InpaintingPipeline
    from continuous_unet.tasks.upscale.pipeline import SuperResolutionPipeline


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
