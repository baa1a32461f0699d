"""The options of training on clips, and of `cunet volume`. Imports no torch."""

from dataclasses import dataclass

from continuous_unet.base.options import Options, option
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


@dataclass
class VolumeOptions(Options):
    """Options of `cunet volume`."""

    model: str = option(
        "",
        "a run folder of `cunet train --task video` on volumes, or a saved model",
        positional=True,
        required=True,
        metavar="RUN",
    )
    input: str = option(
        "", "the volume: .npz with an array volume, .nii or .nii.gz", positional=True, required=True, metavar="IN"
    )
    output: str = option("", "file for the result: .npz, .nii or .nii.gz", short="-o", required=True)
    sigma: float = option(0.0, "standard deviation of the noise, in the unit of the values", above=0, required=True)
    black: float | None = option(None, "value that was black in training (default: the smallest of the volume)")
    white: float | None = option(None, "value that was white in training (default: the largest of the volume)")
    patch: int = option(64, "side of the patches in voxels", at_least=16)
    overlap: int = option(16, "voxels that neighbouring patches share", at_least=0)
    device: str | None = option(None, "cpu, cuda or mps (default: the best one available)")
    overwrite: bool = option(False, "replace a file that exists already")
