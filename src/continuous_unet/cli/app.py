"""Open the page that turns strokes into pictures while you draw, and restores photographs.

Without a model, it has those that come with the package. With --output, it becomes a folder of static files.

cunet app runs/digits
cunet app runs/digits denoise-grey --output site
"""

from continuous_unet.app.options import AppOptions
from continuous_unet.cli.verb import Verb

APP = Verb(AppOptions, "continuous_unet.app.run:open_app", __doc__)
