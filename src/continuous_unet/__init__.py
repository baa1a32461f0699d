"""Small, fast diffusion models: U-Nets whose blocks are second-order neural ODEs.

`import continuous_unet` is enough for `diffusers.DiffusionPipeline.from_pretrained` to find our classes in a
`model_index.json`. Names are loaded on first use, so that `cunet --help` need not wait for torch.
"""

from typing import TYPE_CHECKING

from continuous_unet.base.lazy import lazy_names

if TYPE_CHECKING:
    from continuous_unet.models.unet_1d import ContinuousUNet1DModel as ContinuousUNet1DModel
    from continuous_unet.models.unet_2d import ContinuousUNet2DModel as ContinuousUNet2DModel
    from continuous_unet.models.unet_3d import ContinuousUNet3DModel as ContinuousUNet3DModel
    from continuous_unet.tasks.denoise.pipeline import DenoisingPipeline as DenoisingPipeline
    from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline as DiffusionSamplingPipeline
    from continuous_unet.tasks.inpaint.pipeline import InpaintingPipeline as InpaintingPipeline
    from continuous_unet.tasks.plan.pipeline import PlanningPipeline as PlanningPipeline
    from continuous_unet.tasks.plan.policy import Policy as Policy
    from continuous_unet.tasks.upscale.pipeline import SuperResolutionPipeline as SuperResolutionPipeline
    from continuous_unet.tasks.video.pipeline import VideoPipeline as VideoPipeline

__version__ = "0.2.0.dev0"
__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".models.unet_1d": ["ContinuousUNet1DModel"],
        ".models.unet_2d": ["ContinuousUNet2DModel"],
        ".models.unet_3d": ["ContinuousUNet3DModel"],
        ".tasks.denoise.pipeline": ["DenoisingPipeline"],
        ".tasks.generate.pipeline": ["DiffusionSamplingPipeline"],
        ".tasks.inpaint.pipeline": ["InpaintingPipeline"],
        ".tasks.plan.pipeline": ["PlanningPipeline"],
        ".tasks.plan.policy": ["Policy"],
        ".tasks.upscale.pipeline": ["SuperResolutionPipeline"],
        ".tasks.video.pipeline": ["VideoPipeline"],
        # diffusers asks the module that a pipeline names for this base class, to learn how to load what is in it
        "diffusers.models.modeling_utils": ["ModelMixin"],
    },
)
__all__.remove("ModelMixin")
__all__.append("__version__")
