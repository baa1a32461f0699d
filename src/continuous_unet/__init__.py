"""Small, fast diffusion models: U-Nets whose blocks are second-order neural ODEs.

`import continuous_unet` is enough for `diffusers.DiffusionPipeline.from_pretrained` to find our classes in a
`model_index.json`. Names are loaded on first use, so that `cunet --help` need not wait for torch.
"""

from typing import TYPE_CHECKING

from continuous_unet.base.lazy import lazy_names

__version__ = "0.1.0"

__getattr__ = lazy_names(
    __name__,
    {
        "ContinuousUNet2DModel": "continuous_unet.models.unet_2d",
        "DenoisingPipeline": "continuous_unet.tasks.denoise.pipeline",
        "DiffusionSamplingPipeline": "continuous_unet.tasks.generate.pipeline",
        "InpaintingPipeline": "continuous_unet.tasks.inpaint.pipeline",
        "SuperResolutionPipeline": "continuous_unet.tasks.upscale.pipeline",
        # diffusers asks the module that a pipeline names for this base class, to learn how to load what is in it
        "ModelMixin": "diffusers.models.modeling_utils",
    },
)

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


def __dir__() -> list[str]:
    return sorted(__all__)
