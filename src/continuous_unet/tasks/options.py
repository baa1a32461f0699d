"""The options that all verbs for image files have in common. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, option
from continuous_unet.data.options import parse_value_range

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class FileOptions(Options):
    """Options of every verb whose input is images."""

    inputs: list[str] = option(
        [], "image files, and folders that are searched for images", positional=True, required=True, metavar="IN"
    )
    model: str | None = option(None, "model to use: a run folder, a saved model, or the name of a packaged one")
    output: str = option(
        "", "where results go: an image file, or a folder for several inputs", short="-o", required=True, metavar="OUT"
    )
    seed: int = option(0, "seed of the random numbers")
    tile: int = option(512, "side of the tiles that large images are cut into, in pixels")
    overlap: int = option(64, "number of pixels that neighbouring tiles share")
    solver_steps: int | None = option(None, "number of solver steps in each block (default: as trained)")
    variant: str | None = option(None, "variant of the saved weights, such as fp16 (default: the only one that exists)")
    device: str | None = option(None, "cpu, cuda or mps (default: the best one available)")
    max_pixels: int | None = option(None, "refuse images with more pixels than this (default: 89478485)", at_least=1)
    value_range: str | None = option(
        None,
        "LOW:HIGH, the values of black and white in 16-bit and 32-bit grey images (default: decided for each image)",
    )
    skip_existing: bool = option(False, "leave out inputs whose result exists already")
    overwrite: bool = option(False, "replace results that exist already")

    def validate(self) -> "Self":
        super().validate()
        if self.overlap < 0 or self.tile < 2 * max(self.overlap, 8):
            given = f"--tile {self.tile} --overlap {self.overlap}"
            raise InputError(
                f"{given}: --tile must be at least 16 and at least twice the overlap, and --overlap at least 0"
            )
        if self.skip_existing and self.overwrite:
            raise InputError("--skip-existing and --overwrite contradict each other; give one of them")
        parse_value_range(self.value_range)
        return self


@dataclass
class ModeOptions(FileOptions):
    """Options of the verbs that restore an image by one evaluation of the model, or by a diffusion."""

    mode: Literal["mean", "sample"] = option(
        "mean", "mean: one evaluation of the model, highest PSNR; sample: several, sharper"
    )
    steps: int = option(20, "number of sampling steps with --mode sample", at_least=1)
