"""Find the best sampling times of a trained model for a few steps, and save them with it.

cunet schedule runs/digits --steps 5 10
cunet sample runs/digits --steps 5

It takes as long as making a few thousand images. Training the model further makes a new search necessary.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.tasks.generate.options import ScheduleOptions

SCHEDULE = Verb(ScheduleOptions, "continuous_unet.tasks.generate.schedule:find_schedules", __doc__)
