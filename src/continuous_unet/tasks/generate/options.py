"""What generation can be asked for. Imports no torch."""

from dataclasses import dataclass

from continuous_unet.base.options import option


@dataclass
class GenerateTraining:
    """Options of training a model that makes images from noise."""

    class_conditional: bool = option(False, "condition the model on the classes of the data")

    def validate(self) -> "GenerateTraining":
        """Returns itself; every combination is possible."""
        return self
