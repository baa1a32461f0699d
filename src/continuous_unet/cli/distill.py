"""Train a student that makes images in one to four evaluations.

The student starts as a copy of its teacher, and learns to do in few evaluations what the teacher does in many. The
result is a run folder with its own sampling times, so that `cunet sample` needs no options for it.

cunet distill runs/digits --data digits --output runs/student
cunet distill runs/digits --data digits --method sfd --evaluations 2 --output runs/two
cunet distill --output runs/student --resume
"""

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import leaves
from continuous_unet.base.results import Json
from continuous_unet.cli.train import begun
from continuous_unet.cli.verb import Verb
from continuous_unet.tasks.distill.options import DistillTraining
from continuous_unet.training.distill import DistillOptions


def begun_distillation(output: str) -> Json:
    """Returns the options that the distillation in a folder was begun with."""
    values = begun(output)
    if values.get("task") != DistillTraining.name:
        raise InputError(f"{output} is not a distillation; resume it with `cunet train --resume`")
    values["teacher"] = values["start_from"]
    return {name: value for name, value in values.items() if name in leaves(DistillOptions)}


DISTILL = Verb(DistillOptions, "continuous_unet.training.distill:distill", __doc__, begun_distillation)
