"""Remove the least important channels of a model, and fine-tune it.

cunet prune runs/digits --data digits --ratio 0.3 --output runs/digits-pruned --steps 2000
cunet prune --output runs/digits-pruned --resume

cunet sample, profile and export take the folder like a run folder. cunet train --start-from trains it further.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.deploy.pruning.options import PruneOptions, begun_options

PRUNE = Verb(PruneOptions, "continuous_unet.deploy.pruning.run:prune", __doc__, begun_options)
