"""Remove noise from images, with a model trained for it or with any diffusion model.

cunet denoise noisy.png --output clean.png
cunet denoise photos/ --model runs/photos --sigma 25 --mode sample --output clean/

Without --model, the packaged blind grey denoiser is used. It denoises colour images channel by channel.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.tasks.denoise.options import DenoiseOptions

DENOISE = Verb(DenoiseOptions, "continuous_unet.tasks.denoise.run:denoise_files", "remove noise from images", __doc__)
