"""Remove noise from images.

The model is one trained for it, or any diffusion model.

cunet denoise noisy.png --output clean.png
cunet denoise photos/ --model runs/photos --sigma 25 --mode sample --output clean/

Without --model, the packaged blind grey denoiser is used. It denoises colour images channel by channel.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.tasks.denoise.options import DenoiseOptions

DENOISE = Verb(DenoiseOptions, "continuous_unet.tasks.denoise.run:denoise_files", __doc__)
