"""Options of `cunet evaluate` and `cunet profile`. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, option
from continuous_unet.models.presets import PRESETS

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class RestorationOptions(Options):
    """Options that the evaluations of restoration models share."""

    data: str = option(
        "", "clean images: a folder, an archive, or another source that `cunet train --data` takes", required=True
    )
    model: list[str] = option([], "models to measure (default: the one that comes with the package)")
    mode: Literal["mean", "sample"] = option("mean", "mean: one evaluation of the model; sample: several")
    sampling_steps: int = option(20, "number of sampling steps with --mode sample", at_least=1, old=("--sample-steps",))
    num: int | None = option(None, "largest number of images, the first by name (default: all)", at_least=1)
    solver_steps: int | None = option(None, "number of solver steps in each block (default: as trained)", at_least=1)
    lpips: bool = option(False, "measure LPIPS too; needs torchvision and weights from the network")
    seed: int = option(0, "seed of the noise")
    tile: int | None = option(None, "tile size in input pixels (default: that of the task's own verb)", at_least=16)
    overlap: int | None = option(
        None, "pixels that neighbouring tiles share (default: as in the task's own verb)", at_least=0
    )
    device: str | None = option(None, "cpu, cuda or mps (default: the best one available)")


@dataclass
class EvaluateDenoiseOptions(RestorationOptions):
    """Options of `cunet evaluate denoise`."""

    sigma: list[float] = option([], "noise levels on the 0–255 scale (default: 15 25 50)", above=0, at_most=255)
    known_sigma: bool = option(False, "give the model the noise level, if it needs one, instead of estimating it")
    timesteps: list[int] = option(
        [], "noise images to these timesteps of a diffusion model, instead of to a sigma", at_least=0, old=("--steps",)
    )

    def validate(self) -> "Self":
        super().validate()
        if self.sigma and self.timesteps:
            raise InputError("--sigma and --timesteps are two experiments; give one of them")
        return self


@dataclass
class EvaluateUpscaleOptions(RestorationOptions):
    """Options of `cunet evaluate upscale`."""

    scale: int | None = option(None, "upscaling factor of the packaged model, 2 or 4 (default: 2)", between=(2, 4))
    jpeg: int | None = option(
        None, "JPEG quality of the small images, 1 to 95 (default: not compressed)", between=(1, 95)
    )


EXTRACTORS = {
    "efficientnet-lite0": "efficientnet:EfficientNetLite0",
    "classifier": "classifier:Classifier",
    "small-classifier": "classifier:SmallClassifier",
    "inception": "inception:Inception",
}
"""Feature extractors by name: file and class in `quality/extractors`."""
EXTRACTOR_HELP = (
    "features of the distances: efficientnet-lite0 (ImageNet; the extra `features`), a classifier trained here on the "
    "real images, that of version 0.1.0 (small-classifier), or inception (torch-fidelity); auto: efficientnet-lite0 "
    "for colour images if it is installed, otherwise the classifier"
)


@dataclass
class EvaluateGenerateOptions(Options):
    """Options of `cunet evaluate generate`."""

    data: str = option(
        "", "real images: a folder, an archive, or another source that `cunet train --data` takes", required=True
    )
    model: list[str] = option([], "runs, saved models and models of the package to sample from")
    images: list[str] = option([], "folders or archives of generated images to measure, instead of models or with them")
    num: int = option(5000, "number of images to compare, per model or folder; FID falls with more", at_least=100)
    image_size: int | None = option(
        None, "side of the images in pixels (default: that of the first model, or of the real images)", at_least=1
    )
    fit: Literal["crop", "pad", "stretch"] | None = option(
        None, "how real images get that size (default: as the first run was trained, or crop)"
    )
    scheduler: Literal["ddpm", "ddim", "dpm++", "unipc", "euler", "heun", "own"] | None = option(
        None,
        "sampling method; own is the one that is saved with the model (default: own for distilled models, euler for "
        "flow matching, and otherwise dpm++)",
    )
    sampling_steps: list[int] = option(
        [],
        "numbers of sampling steps, each of which is a row (default: 20, or the most that a distilled model takes)",
        between=(1, 1000),
    )
    guidance: list[float] = option(
        [],
        "guidance scales of class-conditional models, each of which is a row; 1 is without guidance (default: that of "
        "the model)",
        between=(0, 1000),
    )
    solver_steps: int | None = option(None, "number of solver steps in each block (default: as trained)", at_least=1)
    seed: int = option(0, "seed of the samples, of the choice of real images and of the classifier")
    batch_size: int = option(128, "number of images at a time, which does not change them", at_least=1)
    extractor: str = option("auto", EXTRACTOR_HELP, choices=("auto", *EXTRACTORS))
    extractor_steps: int = option(1500, "training steps of the classifier", at_least=1)
    device: str | None = option(None, "cpu, cuda or mps (default: the best one available)")

    def validate(self) -> "Self":
        super().validate()
        if not self.model and not self.images:
            raise InputError("nothing to measure: name models with --model, or generated images with --images")
        return self


@dataclass
class ProfileOptions(Options):
    """Options of `cunet profile`."""

    model: str = option(
        "",
        f"a run, a saved model, a model of the package, or one of {', '.join(PRESETS)}",
        positional=True,
        required=True,
    )
    sample_size: int | None = option(
        None,
        "side of the images in pixels, or length of sequences (default: that of the model; for presets 32, for tiny "
        "and planner 16, for base and ddpm 64)",
        at_least=1,
    )
    channels: int | None = option(
        None,
        "channels of a preset's images (default: 1 for tiny and clips, 2 for planner, 3 for the others)",
        at_least=1,
    )
    batch_size: int = option(1, "images at a time", at_least=1)
    repeats: int = option(20, "timed forward passes", at_least=1)
    solver_steps: int | None = option(None, "number of solver steps in each block (default: as trained)", at_least=1)
    sampling_steps: int | None = option(
        None,
        "number of sampling steps of a whole image, each one evaluation (default: 20, or the most that a distilled "
        "model takes)",
        between=(1, 1000),
    )
    guidance: float = option(
        1.0, "guidance scale of a whole image; any but 1 takes two evaluations a sampling step", between=(0, 1000)
    )
    runtimes: list[Literal["compiled", "onnx", "openvino"]] = option(
        [], "further runtimes to time: torch.compile, ONNX Runtime, OpenVINO; a whole image takes the fastest one"
    )
    device: str | None = option(None, "cpu, cuda or mps (default: the best one available)")
