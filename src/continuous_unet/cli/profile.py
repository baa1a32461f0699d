"""Measure parameters, MACs, memory and latency of a model.

The MACs and evaluations of every solver stage are counted.

cunet profile base --json
cunet profile runs/digits --solver-steps 1
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.evaluation.options import ProfileOptions

PROFILE = Verb(ProfileOptions, "continuous_unet.evaluation.costs.run:profile", __doc__)
