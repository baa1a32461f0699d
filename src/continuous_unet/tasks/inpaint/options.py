"""The options of inpainting. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import option
from continuous_unet.tasks.options import FileOptions

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class InpaintOptions(FileOptions):
    """Options of `cunet inpaint`."""

    model: str | None = option(
        None, "unconditional diffusion model to use: a run folder, or a saved model", required=True
    )
    mask: str = option(
        "", "image file that marks what to fill: white, or opaque where it has transparency", required=True
    )
    steps: int = option(50, "number of sampling steps, without their repetitions", at_least=1)
    jump_length: int = option(5, "number of sampling steps that are undone at a time", at_least=1)
    resamples: int = option(5, "number of times that each stretch of steps is run; 1 means no repetition", at_least=1)

    def validate(self) -> "Self":
        super().validate()
        if self.jump_length >= self.steps:
            raise InputError(f"--jump-length {self.jump_length} must be less than --steps {self.steps}")
        return self
