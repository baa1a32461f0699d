"""The configuration of a comparison: one dataclass, which checks itself. Imports no torch."""

from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.training.config import TrainConfig, check_types, option

SCHEDULERS = ("ddim", "dpm++")
"""Samplers that every side is sampled with."""

_AT_MOST = {
    "num_seeds": 100, "batch_size": 2**16, "num_validation": 10**6, "repeats": 10**4, "jobs": 256,
    "extractor_steps": 10**6,
}  # fmt: skip


@dataclass
class CompareConfig:
    """Everything that a comparison depends on, the same for all sides."""

    data: str = option("", "folder of images, .zip, IDX files, .npz, hf:NAME, or a built-in set (digits, shapes)")
    output: str = option("", "folder of the comparison")
    budget: str = option(
        "images=16000",
        "training of each side: images=N, as many images, or minutes=M, as much time at its measured speed",
    )
    sides: list[str] = option([], "names of built-in sides, or YAML files of your own; all built-in ones if left out")
    scale: Literal["auto", "small", "base"] = option("auto", "built-in sides: small up to 32 pixels, base for more")
    num_seeds: int = option(3, "seeds that every side is trained with")

    image_size: int | None = option(None, "side of the images in pixels; their own if left out")
    channels: int | None = option(None, "1 (grey), 3 (RGB) or 4 (RGBA); what the images have if left out")
    fit: Literal["crop", "pad", "stretch"] = option("crop", "how images become square")
    random_flip: bool = option(False, "mirror half of the images")
    batch_size: int = option(32, "images per step")
    num_validation: int = option(512, "images held out for the validation loss")
    # not epsilon: after a small budget its error at the highest noise, which sampling multiplies by up to 100, still
    # makes most pictures blank, and the FID of every side is then that of blank pictures
    objective: Literal["epsilon", "v_prediction", "sample"] = option("v_prediction", "what the models predict")
    noise_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = option(
        "linear", "betas of the diffusion process"
    )
    ema_decay: float = option(0.999, "decay of the average of the weights, which is what is evaluated")

    learning_rates: list[float] = option([1e-3, 2e-3, 4e-3], "tried for each side on the sweep's budget; best one used")
    sweep_images: int | None = option(None, "training images of each try; a quarter of the budget if left out")

    num_samples: int = option(5000, "images for the FID and KID of each side and seed")
    sampler_steps: list[int] = option([5, 10, 20, 50, 100], "sampling steps of the quality curves")
    curve_samples: int = option(500, "images for each point of the quality curves (first seed)")
    main_sampler: str = option("dpm++:10", "sampler and steps of the FID and of the seconds per image")
    extractor: Literal["classifier", "inception"] = option(
        "classifier",
        "features of FID and KID: a small classifier trained here on the data, or Inception (needs torch-fidelity)",
    )
    extractor_steps: int = option(1500, "training steps of the classifier")

    costs_only: bool = option(False, "measure parameters, MACs, memory and speed, and train nothing")
    compiled: bool = option(True, "measure compiled latency too (compiles every side)")
    repeats: int = option(15, "timed rounds of every latency")
    device: Literal["cpu", "cuda", "mps"] | None = option(None, "where to compute; the best there is if left out")
    jobs: int = option(1, "trainings at a time, of one thread each where there are several")

    def validate(self) -> "CompareConfig":
        """Check every field by itself.

        Raises:
            InputError: naming the first field that is wrong, what was expected, and what to do.
        """
        check_types(self)
        if not self.data:
            raise InputError("no data was named; give a folder or file with --data, or --data digits to try things out")
        if not self.output:
            raise InputError("no output was named; give the folder for the comparison with --output")
        self.budget_parts()
        self.main_sampler_parts()
        for name, most in _AT_MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"{name}={getattr(self, name)} must lie in 1 to {most}")
        for name in ("num_samples", "curve_samples"):
            if getattr(self, name) < 100:
                raise InputError(f"{name}={getattr(self, name)} is too few for a distance; give at least 100")
        if not self.learning_rates or any(not 0 < rate < 1 for rate in self.learning_rates):
            raise InputError(f"learning_rates={self.learning_rates} must hold at least one rate, each in (0, 1)")
        if any(steps < 1 or steps > 1000 for steps in self.sampler_steps):
            raise InputError(f"sampler_steps={self.sampler_steps} must lie in 1 to 1000")
        if self.sweep_images is not None and self.sweep_images < self.batch_size:
            raise InputError(f"sweep_images={self.sweep_images} is less than one batch of {self.batch_size}")
        model = SimpleNamespace(preset="tiny", model_options={})
        self.train_config(self.output, model, steps=1, learning_rate=self.learning_rates[0], seed=0).validate()
        return self

    def budget_parts(self) -> tuple[Literal["images", "minutes"], float]:
        """Kind and size of the budget.

        Raises:
            InputError: if it is not of the form `images=N` or `minutes=M`.
        """
        kind, _, number = self.budget.partition("=")
        try:
            size = float(number)
        except ValueError:
            size = 0.0
        if kind not in ("images", "minutes") or not 0 < size < 1e12:
            raise InputError(f"budget={self.budget!r} must be images=N or minutes=M, for example images=16000")
        return kind, size  # type: ignore[return-value]

    def main_sampler_parts(self) -> tuple[str, int]:
        """Scheduler and steps of the main sampler."""
        name, _, steps = self.main_sampler.partition(":")
        if name not in SCHEDULERS or not steps.isdigit() or not 1 <= int(steps) <= 1000:
            raise InputError(f"main_sampler={self.main_sampler!r} must be ddim:STEPS or dpm++:STEPS")
        return name, int(steps)

    def to_dict(self) -> dict[str, Any]:
        """Values for YAML, in the order of the fields."""
        return asdict(self)

    def train_config(
        self, output: str, side: Any, *, steps: int, learning_rate: float, seed: int, points: int = 8
    ) -> TrainConfig:
        """One training of one side: nothing but model, learning rate, length and seed differs.

        Args:
            output: folder of the run.
            side: the model, a `Side`.
            steps: updates of the weights.
            learning_rate: after the warm-up.
            seed: of everything random.
            points: validations along the way.

        The learning rate is constant after its warm-up and the evaluated weights are averages, so that every point of
        the curve is a result of its own: the same run answers for any budget up to its length.
        """
        every = max(1, steps // points)
        return TrainConfig(
            data=self.data,
            output=output,
            preset=side.preset,
            model_options=side.model_options,
            steps=steps,
            batch_size=self.batch_size,
            seed=seed,
            image_size=self.image_size,
            channels=self.channels,
            fit=self.fit,
            random_flip=self.random_flip,
            num_validation=self.num_validation,
            objective=self.objective,
            noise_schedule=self.noise_schedule,
            learning_rate=learning_rate,
            lr_schedule="constant_with_warmup",
            lr_warmup_steps=min(100, max(1, steps // 10)),
            ema_decay=self.ema_decay,
            device=self.device,
            checkpoint_every=every,
            keep_checkpoints=1,
            validate_every=every,
            log_every=min(50, every),
            sample_every=steps,
            num_samples=1,
            sample_steps=1,
        )
