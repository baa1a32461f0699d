"""The options of a comparison. Imports no torch."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, leaves, option
from continuous_unet.evaluation.options import EXTRACTOR_HELP, EXTRACTORS
from continuous_unet.training.config import TrainConfig

if TYPE_CHECKING:
    from typing_extensions import Self

CURVE_SCHEDULERS = {"variance-preserving": ("ddim", "dpm++"), "flow": ("euler",)}
"""Samplers of the quality curves, by the noise process."""
SHARED = (
    *("data", "image_size", "channels", "fit", "random_flip", "batch_size", "num_validation", "ema_decay"),
    *("process", "device", "mixed_precision", "lr_schedule", "class_conditional"),
)
"""Options that every training takes from the comparison."""


class ModelDescription(Protocol):
    """Names the preset of a model and its changes, as a `Side` does."""

    preset: str
    model_options: dict[str, Any]


@dataclass
class CompareConfig(Options):
    """The options of `cunet compare`, which are the same for all sides.

    Options marked `may_change` may differ when a comparison continues; what was measured stays as it was measured.
    """

    data: str = option(
        "",
        "folder of images, .zip, IDX files, .npz, hf:NAME, or a built-in set (digits, shapes, scenes)",
        required=True,
    )
    output: str = option("", "folder of the comparison", required=True, may_change=True)
    budget: str = option(
        "images=16000",
        "training of each side: images=N for a number of images, or minutes=M for a time at its measured speed",
    )
    sides: list[str] = option(
        [],
        "names of built-in sides, YAML files of your own, or saved:MODEL for a run or saved model that is not trained "
        "here (default: all built-in ones)",
    )
    side_size: Literal["auto", "small", "base"] = option(
        "auto",
        "which built-in sides: small ones, base ones, or by the images (small up to 32 pixels)",
        old=("--scale",),
    )
    num_seeds: int = option(3, "number of seeds that every side is trained with", between=(1, 100), may_change=True)

    image_size: int | None = option(None, "side of the images in pixels (default: their own)")
    channels: int | None = option(None, "1 (grey), 3 (RGB) or 4 (RGBA) channels (default: those of the images)")
    fit: Literal["crop", "pad", "stretch"] = option("crop", "how images become square")
    random_flip: bool = option(False, "mirror half of the images")
    batch_size: int = option(32, "images per training step", between=(1, 2**16))
    num_validation: int = option(512, "images held out for the validation loss", between=(1, 10**6))
    # not epsilon: after a small budget its error at the highest noise, which sampling multiplies by up to 100, still
    # makes most pictures blank, and the FID of every side is then that of blank pictures
    objective: Literal["epsilon", "v_prediction", "sample"] = option(
        "v_prediction", "what the models predict; not for --process flow, which predicts the velocity"
    )
    process: Literal["variance-preserving", "flow"] = option(
        "variance-preserving", "noise process of all sides; flow is flow matching, with --scheduler euler"
    )
    noise_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = option(
        "linear", "betas of the diffusion process"
    )
    class_conditional: bool = option(
        False,
        "tell all sides the classes of the images, and sample all classes equally often; costs are measured without "
        "classes, whose embedding adds next to nothing",
    )
    lr_schedule: Literal["constant_with_warmup", "cosine"] = option(
        "constant_with_warmup",
        "learning-rate schedule; cosine usually ends at a lower loss than a constant rate, but only the last point of "
        "its curve is the result of a finished training",
    )
    mixed_precision: Literal["no", "bf16"] = option("no", "precision of the trainings of all sides")
    ema_decay: float = option(0.999, "decay of the averaged weights, which are the ones that are evaluated")

    learning_rates: list[float] = option(
        [1e-3, 2e-3, 4e-3], "learning rates to try for each side in the sweep; the best one is used", above=0, below=1
    )
    sweep_images: int | None = option(None, "training images of each try (default: a quarter of the budget)")

    num_samples: int = option(5000, "samples for the FID and KID of each side and seed", between=(100, 10**7))
    scheduler: str = option(
        "dpm++",
        "sampler of the FID and of the time per image: ddim or dpm++, and euler for --process flow",
        old=("--main-sampler",),
    )
    sampling_steps: int = option(10, "sampling steps of the FID and of the time per image", between=(1, 1000))
    curve_steps: list[int] = option(
        [5, 10, 20, 50, 100], "sampling steps of the quality curves", between=(1, 1000), old=("--sampler-steps",)
    )
    curve_samples: int = option(500, "samples for each point of the quality curves (first seed)", between=(100, 10**7))
    extractor: str = option("auto", EXTRACTOR_HELP, choices=("auto", *EXTRACTORS))
    extractor_steps: int = option(1500, "training steps of the classifier", between=(1, 10**6))

    costs_only: bool = option(False, "measure parameters, MACs, memory and speed, and train nothing", may_change=True)
    fid_every: int | None = option(
        None,
        "measure FID and its companions also after every so many training images, for the first seed (default: only at "
        "the end)",
        at_least=1,
    )

    compiled: bool = option(True, "measure compiled latency too (compiles every side)", may_change=True)
    runtimes: list[Literal["onnx", "openvino"]] = option(
        [], "runtimes to export every side to and to time, for its time per image in the fastest one", may_change=True
    )
    repeats: int = option(15, "timed rounds of every latency", between=(1, 10**4), may_change=True)
    device: Literal["cpu", "cuda", "mps"] | None = option(None, "where to compute (default: the best device available)")
    jobs: int = option(
        1, "number of trainings at a time, of one thread each if there are several", between=(1, 256), may_change=True
    )

    def __post_init__(self) -> None:
        # version 0.1.0 had sampler and steps in one option: dpm++:10
        name, colon, steps = str(self.scheduler).partition(":")
        if colon and steps.isdigit():
            self.scheduler, self.sampling_steps = name, int(steps)

    def validate(self) -> "Self":
        super().validate()
        self.budget_parts()
        fresh = type(self)()
        for name in ("objective", "noise_schedule"):
            if self.process == "flow" and getattr(self, name) != getattr(fresh, name):
                raise InputError(f"--{name.replace('_', '-')} is for --process variance-preserving; leave it out")
        known = CURVE_SCHEDULERS[self.process]
        if self.scheduler not in known:
            raise InputError(
                f"--scheduler {self.scheduler!r} is not a sampler for --process {self.process}; expected "
                f"{' or '.join(known)}"
            )
        if not self.learning_rates:
            raise InputError("--learning-rates must name at least one learning rate")
        if self.sweep_images is not None and self.sweep_images < self.batch_size:
            raise InputError(f"--sweep-images {self.sweep_images} is less than one batch of {self.batch_size}")
        if self.fid_every is not None and self.fid_every < self.batch_size:
            raise InputError(f"--fid-every {self.fid_every} is less than one batch of {self.batch_size}")
        model = SimpleNamespace(preset="tiny", model_options={})
        self.train_config(self.output, model, steps=1, learning_rate=self.learning_rates[0], seed=0).validate()
        return self

    def budget_parts(self) -> tuple[str, float]:
        """Returns kind (`images` or `minutes`) and size of the budget.

        Raises:
            InputError: if it is not of the form `images=N` or `minutes=M`.
        """
        kind, _, number = self.budget.partition("=")
        try:
            size = float(number)
        except ValueError:
            size = 0.0
        if kind not in ("images", "minutes") or not 0 < size < 1e12:
            raise InputError(f"--budget {self.budget!r} must be images=N or minutes=M, for example images=16000")
        return kind, size

    def changed_since(self, before: "CompareConfig") -> list[str]:
        """Returns a line for each option that differs from that of an earlier call and must not."""
        old, new = before.flat(), self.flat()
        fixed = [name for name, leaf in leaves(type(self)).items() if not leaf.field.metadata.get("may_change")]
        return [f"{name} {old[name]!r} -> {new[name]!r}" for name in fixed if old[name] != new[name]]

    def train_config(
        self, output: str, side: "ModelDescription", *, steps: int, learning_rate: float, seed: int, points: int = 8
    ) -> TrainConfig:
        """Returns one training of one side: only model, learning rate, length and seed differ between sides.

        Unless it is asked for otherwise, the learning rate is constant after its warm-up, and the evaluated weights are
        averages. So every point of the curve is a result of its own: one run answers for any budget up to its length.

        Args:
            output: folder of the run.
            side: the model, a `Side`.
            steps: training steps.
            learning_rate: the learning rate after the warm-up.
            seed: the seed of everything random.
            points: number of validations during the training.
        """
        every = max(1, steps // points)
        shared = {name: getattr(self, name) for name in SHARED}
        if self.process == "variance-preserving":
            shared |= {"objective": self.objective, "noise_schedule": self.noise_schedule}
        return TrainConfig.from_dict(
            {
                **shared,
                "output": output,
                "preset": side.preset,
                "model_options": side.model_options,
                "steps": steps,
                "seed": seed,
                "learning_rate": learning_rate,
                "lr_warmup_steps": min(100, max(1, steps // 10)),
                "checkpoint_every": every,
                "keep_checkpoints": 1,
                "validate_every": every,
                "log_every": min(50, every),
                "sample_every": steps,
                "num_samples": 1,
                "sampling_steps": 1,
            }
        )
