"""Find the number of solver steps that each noise level needs.

The loss is measured at several numbers of solver steps. The result is saved with the model, for --solver-steps auto.

cunet depths runs/digits --data digits --solver-steps 1,2,4
cunet sample runs/digits --solver-steps auto
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.deploy.depth_options import DepthsOptions

DEPTHS = Verb(DepthsOptions, "continuous_unet.deploy.depths:find_depths", __doc__)
