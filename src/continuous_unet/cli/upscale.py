"""Enlarge images.

The upscaling factor is 2, 3 or 4. The models are trained on photographs.

cunet upscale photo.jpg --output large.png
cunet upscale photos/ --scale 4 --output large/

Without --model, the packaged models for the factors 2 and 4 are used. They restore the brightness (luma); colours are
enlarged by bicubic interpolation.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.tasks.upscale.options import UpscaleOptions

UPSCALE = Verb(UpscaleOptions, "continuous_unet.tasks.upscale.run:upscale_files", __doc__)
