"""Remove the least important channels of a trained model, and fine-tune what is left.

cunet prune runs/digits --data digits --ratio 0.3 --output runs/digits-pruned --steps 2000
cunet prune --output runs/digits-pruned --resume

cunet sample, profile and export take the folder like a run folder. cunet train --start-from trains it further.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.deploy.pruning.options import PruneOptions, begun_options

PRUNE = Verb(
    PruneOptions,
    "continuous_unet.deploy.pruning.run:prune",
    "remove the least important channels of a model, and fine-tune it",
    __doc__,
    resume=begun_options,
)
