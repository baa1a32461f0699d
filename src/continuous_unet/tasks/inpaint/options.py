"""The options of inpainting. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import option
from continuous_unet.tasks.generate.options import guidance_interval
from continuous_unet.tasks.options import FileOptions

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class InpaintOptions(FileOptions):
    """Options of `cunet inpaint`."""

    model: str | None = option(
        None, "diffusion model to use: a run folder, a saved model, or a model of the package", required=True
    )
    mask: str = option(
        "", "image file that marks what to fill: white, or opaque where it has transparency", required=True
    )
    steps: int = option(50, "number of sampling steps, without their repetitions", at_least=1)
    jump_length: int = option(5, "number of sampling steps that are undone at a time", at_least=1)
    resamples: int = option(5, "number of times that each stretch of steps is run; 1 means no repetition", at_least=1)

    class_label: str | None = option(
        None,
        "class of the image, by name or number, for models with classes (default: any class)",
        flat="class",
        metavar="CLASS",
    )
    prompt: str | None = option(
        None, "what the image shows, in words, for models trained with captions", metavar="TEXT"
    )
    negative_prompt: str | None = option(
        None, "what guidance leads away from, in words (default: any image)", metavar="TEXT"
    )
    guidance: float | None = option(
        None, "guidance scale; 1 is without guidance, in half the time (default: that of the model)", between=(0, 1000)
    )
    guidance_interval: str | None = option(
        None, "LOW:HIGH, the part of the noise range with guidance, from 0, no noise, to 1 (default: all of it)"
    )

    def validate(self) -> "Self":
        super().validate()
        guidance_interval(self.guidance_interval)
        if self.jump_length >= self.steps:
            raise InputError(f"--jump-length {self.jump_length} must be less than --steps {self.steps}")
        return self
