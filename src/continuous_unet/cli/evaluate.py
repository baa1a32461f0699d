"""Measure how good generated and restored images are, as the literature does."""

from continuous_unet.cli.verb import Verb
from continuous_unet.evaluation.options import EvaluateDenoiseOptions, EvaluateGenerateOptions, EvaluateUpscaleOptions

GENERATE = Verb(
    EvaluateGenerateOptions,
    "continuous_unet.evaluation.quality.run:evaluate_generation",
    """Measure how far generated images are from real ones, and what they cost.

The images are those of models, or of folders. FID, KID, precision, recall, density and coverage are measured.

cunet evaluate generate --data digits --model runs/digits --json
cunet evaluate generate --data photos/ --model runs/student --sampling-steps 1 2 4
cunet evaluate generate --data photos/ --images generated/ --extractor inception
""",
)
DENOISE = Verb(
    EvaluateDenoiseOptions,
    "continuous_unet.evaluation.quality.run:evaluate_denoising",
    """Measure PSNR and SSIM of denoisers on clean images.

The images come from a folder, and noise is added to them.

cunet evaluate denoise --data BSD68 --sigma 15 25 50 --json
cunet evaluate denoise --data photos/ --model runs/ours runs/discrete --timesteps 50 100 150 200 250 400

The second form is the experiment of arXiv 2310.20092: images are noised to timesteps of a diffusion model and restored.
""",
)
UPSCALE = Verb(
    EvaluateUpscaleOptions,
    "continuous_unet.evaluation.quality.run:evaluate_upscaling",
    """Measure PSNR and SSIM of upscalers on large images.

The images come from a folder, and are made small first.

cunet evaluate upscale --data Set5 --scale 4
""",
)
