"""Measure what a model costs: parameters, MACs of every solver stage, evaluations, memory and latency.

cunet profile base --json
cunet profile runs/digits --solver-steps 1
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.evaluation.options import ProfileOptions

PROFILE = Verb(
    ProfileOptions,
    "continuous_unet.evaluation.costs.run:profile",
    "measure parameters, MACs, memory and latency of a model",
    __doc__,
)
