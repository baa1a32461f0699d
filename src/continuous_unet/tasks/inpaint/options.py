"""What inpainting can be asked for. Imports no torch."""

from dataclasses import dataclass

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import option
from continuous_unet.tasks.options import FileOptions, check_positive


@dataclass
class InpaintOptions(FileOptions):
    """Options of `cunet inpaint`."""

    mask: str = option("", "image file that marks what to fill: white, or opaque where it has transparency")
    steps: int = option(50, "number of sampling steps, without their repetitions")
    jump_length: int = option(5, "number of sampling steps that are undone at a time")
    resamples: int = option(5, "number of times that each stretch is run through; 1 repeats nothing")

    def validate(self) -> "InpaintOptions":
        super().validate()
        if not self.model:
            raise InputError("no model was named; give an unconditional diffusion model with --model")
        if not self.mask:
            raise InputError("no mask was named; give an image file, white where to fill, with --mask")
        check_positive(self, "steps", "jump_length", "resamples")
        if self.jump_length >= self.steps:
            raise InputError(f"--jump-length {self.jump_length} must be less than --steps {self.steps}")
        return self
