"""Remove noise from images.

The model is one trained for it, or any diffusion model.

cunet denoise noisy.png --output clean.png
cunet denoise photos/ --model runs/photos --sigma 25 --mode sample --output clean/

Without --model, the blind denoisers of the package are used: one for grey images, and one for colour.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.tasks.denoise.options import DenoiseOptions

DENOISE = Verb(DenoiseOptions, "continuous_unet.tasks.denoise.run:denoise_files", __doc__)
