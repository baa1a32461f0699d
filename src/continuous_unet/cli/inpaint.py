"""Fill holes in images with a diffusion model.

Any diffusion model of grey or RGB images can do it, without training for it (RePaint, arXiv 2201.09865).

cunet inpaint photo.png --mask hole.png --model runs/photos --output filled.png

The mask has the size of the image. White is filled and black is kept. One mask serves all images.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.tasks.inpaint.options import InpaintOptions

INPAINT = Verb(InpaintOptions, "continuous_unet.tasks.inpaint.run:inpaint_files", __doc__)
