"""What generation can be asked for. Imports no torch."""

from dataclasses import dataclass

from continuous_unet.base.options import option
from continuous_unet.tasks.training_options import TrainingOptions


@dataclass
class GenerateTraining(TrainingOptions):
    """Options of training a model that makes images from noise."""

    class_conditional: bool = option(False, "condition the model on the classes of the data")
