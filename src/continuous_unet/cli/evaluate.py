"""Measure how good generated and restored images are, as the literature does."""

from continuous_unet.cli.verb import Verb
from continuous_unet.evaluation.options import EvaluateDenoiseOptions, EvaluateGenerateOptions, EvaluateUpscaleOptions

GENERATE = Verb(
    EvaluateGenerateOptions,
    "continuous_unet.evaluation.quality.run:evaluate_generation",
    "measure FID and KID of models, or of folders of generated images",
    """Measure FID and KID of models, or of folders of generated images, against real images.

cunet evaluate generate --data digits --model runs/digits --json
cunet evaluate generate --data photos/ --images generated/ --extractor inception
""",
)
DENOISE = Verb(
    EvaluateDenoiseOptions,
    "continuous_unet.evaluation.quality.run:evaluate_denoising",
    "measure PSNR and SSIM of denoisers on clean images",
    """Measure PSNR and SSIM of denoisers on a folder of clean images, to which noise is added.

cunet evaluate denoise --data BSD68 --sigma 15 25 50 --json
cunet evaluate denoise --data photos/ --model runs/ours runs/discrete --timesteps 50 100 150 200 250 400

The second form is the experiment of arXiv 2310.20092: images are noised to timesteps of a diffusion model and restored.
""",
)
UPSCALE = Verb(
    EvaluateUpscaleOptions,
    "continuous_unet.evaluation.quality.run:evaluate_upscaling",
    "measure PSNR and SSIM of upscalers on large images",
    """Measure PSNR and SSIM of upscalers on a folder of large images, which are made small first.

cunet evaluate upscale --data Set5 --scale 4
""",
)
