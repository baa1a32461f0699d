"""Look at images before training: which can be used, which cannot, and why.

cunet data check photos/
cunet data check photos.zip --json

The exit code is 0 if all can be used as they are, 1 if some cannot, and 2 if there is nothing to look at.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.data.options import DataOptions

CHECK = Verb(
    DataOptions,
    "continuous_unet.data.check:check_data",
    "look at images before training: which can be used, which cannot, and why",
    __doc__,
)
