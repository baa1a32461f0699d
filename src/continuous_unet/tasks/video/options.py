"""The options of training on clips. Imports no torch."""

from dataclasses import dataclass

from continuous_unet.base.options import option
from continuous_unet.tasks.training_options import SolverTraining


@dataclass
class VideoTraining(SolverTraining):
    """Options of training a model that makes clips from noise, and continues clips."""

    name = "video"

    frames: int = option(8, "number of frames that are learned, and made, at a time", between=(1, 256))
    continue_share: float = option(
        0.5,
        "fraction of the training clips whose first frames are given, so that the model also learns to continue clips "
        "(cunet sample --first-frames)",
        between=(0, 1),
    )
