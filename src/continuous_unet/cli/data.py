"""Find images that cannot be used for training.

It tells which images can be used, which cannot, and why.

cunet data check photos/
cunet data check photos.zip --json

The exit code is 0 if all images can be used as they are, 1 if some cannot, and 2 if there are none.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.data.options import DataOptions

CHECK = Verb(DataOptions, "continuous_unet.data.check:check_data", __doc__)
