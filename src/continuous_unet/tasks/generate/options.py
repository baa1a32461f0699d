"""The options of generation. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, option
from continuous_unet.tasks.training_options import SolverTraining, number_range

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_STRENGTH = 0.8
"""How much of an image to start from is made anew; that of diffusers' pipelines."""
GIVEN_FRAMES = 2
"""The number of known frames that a clip begins with if it continues another one and no number is given."""
AUTO = "auto"
"""What is given in place of a number of solver steps for the numbers that are saved with the model."""


@dataclass
class GenerateTraining(SolverTraining):
    """Options of training a model that makes images from noise."""

    name = "generate"
    takes_codec = True

    class_conditional: bool = option(False, "condition the model on the classes of the data")
    text_encoder: str | None = option(
        None,
        "condition the model on the captions of the data: built-in (subwords and a small transformer, trained with the "
        "model), or the name or path of an encoder of transformers (default: no text)",
        metavar="ENCODER",
    )
    condition_dropout: float = option(
        0.1,
        "fraction of the training images whose class and caption are dropped, so that the model also learns images of "
        "any kind and can be sampled with guidance",
        between=(0, 1),
    )
    default_guidance: float = option(
        1.0,
        "guidance scale that is saved with the model, for sampling that is given none; 1 is without guidance",
        between=(0, 1000),
        may_change=True,
    )

    def validate(self) -> "Self":
        super().validate()
        asks = self.class_conditional or self.text_encoder is not None
        if self.default_guidance != 1 and not (asks and self.condition_dropout > 0):
            raise InputError(
                f"--default-guidance {self.default_guidance:g} is for models with classes or texts, some of which are "
                "dropped (--condition-dropout); leave it out"
            )
        return self


@dataclass
class SampleOptions(Options):
    """Options of `cunet sample`."""

    model: str = option(
        "",
        "a run folder of `cunet train`, a saved model, or the name of a model of the package (cunet models)",
        positional=True,
        required=True,
        metavar="RUN_OR_MODEL",
    )
    output: str = option(
        "samples.png",
        "where images go: a .png file (a grid if there are several), or a folder; for models of clips a "
        ".gif or .mp4 file (samples.gif; side by side if there are several), a .npz or NIfTI file, or a folder",
        short="-o",
    )
    num: int = option(16, "number of images, of each class or prompt if there are several", at_least=1)
    steps: int | None = option(
        None, "number of sampling steps (default: 50, or the largest number that a model was distilled for)", at_least=1
    )
    scheduler: Literal["ddpm", "ddim", "dpm++", "unipc", "euler", "heun", "own"] | None = option(
        None,
        "sampling method; own takes the times and the order that are saved with the model (default: own, if the model "
        "was distilled or cunet schedule found times for this number of steps; otherwise ddim, or euler for flow "
        "matching)",
    )
    seed: int = option(0, "seed of the random numbers; image k depends on the seed and k alone")
    batch_size: int | None = option(
        None,
        "number of images that are made at a time; it does not change them (default: 64 on a CPU, and on a GPU as many "
        "as fit into half of its free memory, up to 512)",
        at_least=1,
    )
    classes: list[str] | list[int] | int | str | None = option(
        None,
        "classes of the images, by name or number, with a row for each; all stands for every class, and any for images "
        "of any class (default: all classes in turn; any class with --prompt or --image)",
        flat="class",
        old=("--class-label",),
        metavar="CLASS",
    )
    prompt: list[str] | str | None = option(
        None,
        "what the images show, in words, for models trained with captions; a row for each prompt (default: anything)",
        metavar="TEXT",
    )
    negative_prompt: str | None = option(
        None, "what guidance leads away from, in words (default: any image)", metavar="TEXT"
    )
    guidance: float | None = option(
        None,
        "guidance scale: how strongly images are led towards what is asked for; 1 is without guidance, in half the "
        "time (default: that of the model)",
        between=(0, 1000),
    )
    guidance_interval: str | None = option(
        None, "LOW:HIGH, the part of the noise range with guidance, from 0, no noise, to 1 (default: all of it)"
    )
    image: str | None = option(
        None, "image file to start from, instead of noise alone; scaled and cropped to the model's size", metavar="FILE"
    )
    strength: float | None = option(
        None,
        f"fraction of the sampling steps that change --image; 1 ignores it (default: {DEFAULT_STRENGTH})",
        above=0,
        at_most=1,
    )
    first_frames: str | None = option(
        None,
        "a clip (.gif, .mp4, .npz, a folder of frames) that the clips begin with and continue, for models of clips",
        metavar="CLIP",
    )
    given_frames: int | None = option(
        None, f"number of frames of --first-frames that the clips begin with (default: {GIVEN_FRAMES})", at_least=1
    )
    solver_steps: int | str | None = option(
        None,
        "number of solver steps in each block, or auto: by noise level, as saved with the model (default: as trained)",
        metavar="STEPS",
    )
    variant: str | None = option(None, "variant of the saved weights, such as fp16 (default: the only one that exists)")
    device: str | None = option(None, "cpu, cuda or mps (default: the best one available)")
    dtype: Literal["float32", "float16", "bfloat16"] | None = option(
        None, "precision of the weights (default: bfloat16 on a GPU that computes in it, else float32)"
    )
    compile: bool = option(
        False, "compile the model with torch.compile first, which takes about a minute; batches are faster then"
    )
    overwrite: bool = option(False, "replace files that exist already")

    def validate(self) -> "Self":
        super().validate()
        self.interval()
        if self.strength is not None and self.image is None:
            raise InputError("--strength is for an image to start from; give --image, or leave it out")
        if self.given_frames is not None and self.first_frames is None:
            raise InputError("--given-frames is for a clip to continue; give --first-frames, or leave it out")
        return self

    def interval(self) -> tuple[float, float]:
        """Returns the part of the noise range with guidance."""
        return guidance_interval(self.guidance_interval)


def guidance_interval(text: str | None) -> tuple[float, float]:
    """Returns the part of the noise range with guidance that `--guidance-interval` says; all of it for None.

    Raises:
        InputError: for anything that is no part of 0:1.
    """
    low, high = (0.0, 1.0) if text is None else number_range("--guidance-interval", text, 0, 1, "0.2:0.8")
    if low == high:
        raise InputError(f"--guidance-interval {text} is empty; expected LOW:HIGH, for example 0.2:0.8")
    return low, high


@dataclass
class ScheduleOptions(Options):
    """Options of `cunet schedule`."""

    model: str = option(
        "", "a run folder of `cunet train`, or a saved model", positional=True, required=True, metavar="RUN_OR_MODEL"
    )
    steps: list[int] = option([5, 10], "numbers of sampling steps to find times for", between=(1, 40))
    num: int = option(128, "number of images that are sampled for the search", between=(1, 10_000))
    prompt: list[str] = option(
        [], "what these images show, for models trained with captions; several prompts take turns (default: anything)"
    )
    batch_size: int = option(64, "number of images at a time, which takes memory for 80 states of each", at_least=1)
    guidance: float | None = option(
        None, "guidance scale that the times are for (default: that of the model)", between=(0, 1000)
    )
    seed: int = option(0, "seed of the noise that the images start from")
    device: str | None = option(None, "cpu, cuda or mps (default: the best one available)")

    def validate(self) -> "Self":
        super().validate()
        if not self.steps:
            raise InputError("--steps must name at least one number of sampling steps")
        return self
