"""The options of generation. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from continuous_unet.base.options import Options, option
from continuous_unet.tasks.training_options import TrainingOptions


@dataclass
class GenerateTraining(TrainingOptions):
    """Options of training a model that makes images from noise."""

    name = "generate"

    class_conditional: bool = option(False, "condition the model on the classes of the data")
    condition_dropout: float = option(
        0.1,
        "fraction of the training images whose class is dropped, so that the model also learns images of any class and "
        "can be sampled with guidance",
        between=(0, 1),
    )


@dataclass
class SampleOptions(Options):
    """Options of `cunet sample`."""

    model: str = option(
        "", "a run folder of `cunet train`, or a saved model", positional=True, required=True, metavar="RUN_OR_MODEL"
    )
    output: str = option(
        "samples.png", "where images go: a .png file (a grid if there are several), or a folder", short="-o"
    )
    num: int = option(16, "number of images", at_least=1)
    steps: int = option(50, "number of sampling steps", at_least=1)
    scheduler: Literal["ddpm", "ddim", "dpm++", "unipc", "euler", "heun"] | None = option(
        None, "sampling method (default: ddim, and euler for flow matching)"
    )
    seed: int = option(0, "seed of the random numbers; image k depends on the seed and k alone")
    batch_size: int = option(64, "number of images that are made at a time; it does not change them", at_least=1)
    class_label: int | None = option(None, "class of the images, for class-conditional models")
    solver_steps: int | None = option(None, "number of solver steps in each block (default: as trained)")
    variant: str | None = option(None, "variant of the saved weights, such as fp16 (default: the only one that exists)")
    device: str | None = option(None, "cpu, cuda or mps (default: the best one available)")
    dtype: Literal["float32", "float16", "bfloat16"] = option("float32", "precision of the weights")
    compile: bool = option(
        False, "compile the model with torch.compile first, which takes about a minute; batches are faster then"
    )
    overwrite: bool = option(False, "replace files that exist already")
