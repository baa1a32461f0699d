"""What a comparison measures, typed; each measurement is also a piece of JSON (see `pieces.py`)."""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from continuous_unet.comparison.config import CompareConfig
from continuous_unet.data.dataset import DatasetReport
from continuous_unet.evaluation.costs.latency import Latency
from continuous_unet.evaluation.quality.generation import Distance

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class SideCost:
    """Parameters, MACs and memory of one forward pass of one image."""

    num_parameters: int
    macs: int
    saved_for_backward_bytes: int
    peak_memory_bytes: int
    peak_memory_training_bytes: int
    peak_memory_method: str
    evaluations: int
    """Evaluations of the field in all dynamic blocks; 0 for a discrete U-Net."""
    flops: int = 0
    unknown_operations: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedMemory:
    """Bytes saved for the backward pass of one image."""

    side: str
    gradient: str
    """Gradient mode; a discrete U-Net has `backprop` and `checkpoint`."""
    solver_steps: int | None
    saved_bytes: int


@dataclass(frozen=True)
class Failed:
    """The reason why something could not be timed."""

    failed: str


@dataclass(frozen=True)
class Speed(Latency):
    """Time of a batch, and per image."""

    seconds_per_image: float = 0.0


@dataclass(frozen=True)
class Losses:
    """Validation loss, and its mean over each quarter of the timesteps, from least to most noise."""

    validation_loss: float | None = None
    validation_loss_quarter_1: float | None = None
    validation_loss_quarter_2: float | None = None
    validation_loss_quarter_3: float | None = None
    validation_loss_quarter_4: float | None = None


@dataclass(frozen=True)
class CurvePoint(Losses):
    """A validation during training."""

    images_seen: int = 0


@dataclass(frozen=True)
class SolverStepsLosses(Losses):
    """The losses of a trained model with another number of solver steps."""

    solver_steps: int = 0
    trained_with: int = 0


@dataclass(frozen=True)
class Training:
    """One training run."""

    images_seen: int
    validation_loss: float | None
    curve: list[CurvePoint]
    seed: int = 0
    learning_rate: float = 0.0
    loss: float | None = None
    seconds: float = 0.0
    diverged: str | None = None
    """Why the training ended early, if it diverged."""


@dataclass(frozen=True)
class StoppedEarly:
    """The answer of a worker that a signal stopped; it is never kept as a piece."""

    stopped_by: int


@dataclass(frozen=True)
class SampledDistance(Distance):
    """The distance of samples to the real images."""

    scheduler: str = ""
    steps: int = 0
    """Sampling steps."""
    seconds_per_image: float | None = None
    """Wall-clock time of this sampling; other work may have run beside it."""


@dataclass(frozen=True)
class ProgressPoint:
    """The distance of samples to the real images during training."""

    images_seen: int
    distance: SampledDistance


@dataclass(frozen=True)
class SweepPoint:
    """The validation loss at one learning rate; infinite if the training diverged."""

    learning_rate: float
    images: int
    validation_loss: float


@dataclass(frozen=True)
class TrainedSide:
    """The measurements of a side after training; lists are over seeds unless stated otherwise."""

    learning_rate: float
    images: int
    sweep: list[SweepPoint]
    runs: list[Training]
    distances: list[SampledDistance]
    sampling: list[SampledDistance]
    """Over samplers and sampling steps, first seed."""
    solver_steps: list[SolverStepsLosses]
    """Over numbers of solver steps, first seed; empty for a side that has none."""
    progress: list[ProgressPoint] = field(default_factory=list)
    """Over training images, first seed."""


@dataclass(frozen=True)
class SideResult:
    """Everything that was measured of one side."""

    name: str
    label: str
    cost: SideCost
    memory: list[SavedMemory]
    """One entry for every exact gradient mode and number of solver steps."""
    speed: Speed
    """The speed of training steps."""
    sampling_time: Speed
    eager: Latency | Failed
    compiled: Latency | Failed | None
    """None if it was not requested."""
    trained: TrainedSide | None = None
    """None if only costs were measured."""
    exported: dict[str, float] = field(default_factory=dict)
    """Latency of one evaluation for one image by runtime, relative to eager PyTorch; of `config.runtimes`."""
    own_steps: int | None = None
    """The number of sampling steps that a distilled model takes; None for a side that takes any number."""

    def seconds_per_evaluation(self, sampling_steps: int) -> dict[str, float]:
        """Returns the time of one evaluation for one image in each runtime that was timed.

        Eager PyTorch makes 8 images at a time, in whole sampling runs of `sampling_steps`; the others make one.
        """
        found = {"eager": self.sampling_time.seconds_per_image / sampling_steps}
        if isinstance(self.compiled, Latency):
            found["compiled"] = self.compiled.median_ms / 1000
        if isinstance(self.eager, Latency):
            found |= {name: ratio * self.eager.median_ms / 1000 for name, ratio in self.exported.items()}
        return found


TrainedSides = list[tuple[SideResult, TrainedSide]]


@dataclass(frozen=True)
class Machine:
    """The machine on which the figures were measured."""

    device: str
    name: str
    threads: int
    torch: str


@dataclass(frozen=True)
class Scale:
    """The distances between which FIDs lie."""

    extractor: str
    """A description of the features, for people."""
    floor: Distance
    """Real images to other real images."""
    noise: Distance
    """Pure noise to real images."""
    curve_floor: Distance | None = None
    """Real images to as many others as the quality curves have samples."""


@dataclass(frozen=True)
class Comparison:
    """A whole comparison."""

    config: CompareConfig
    data: DatasetReport
    machine: Machine
    sides: list[SideResult]
    scale: Scale | None = None
    """None if only costs were measured."""

    def trained(self) -> TrainedSides:
        """Returns the sides that were trained."""
        return [(side, side.trained) for side in self.sides if side.trained is not None]


def from_json(kind: type[Kind], value: Any) -> Kind:
    """Returns JSON as `kind`: dataclasses, unions, lists and dicts of them. Unknown keys are ignored, so pieces of
    other versions can be read.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return cast(Kind, from_json(next(option for option in arguments if _fits(option, value)), value))
    if origin is list:
        return cast(Kind, [from_json(arguments[0], item) for item in value])
    if origin is dict:
        return cast(Kind, {key: from_json(arguments[1], item) for key, item in value.items()})
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return cast(Kind, kind(**{key: from_json(hints[key], item) for key, item in value.items() if key in hints}))
    return cast(Kind, value)


def _fits(kind: Any, value: object) -> bool:
    """Returns whether JSON can be read as a member of a union."""
    if dataclasses.is_dataclass(kind):
        needed = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
        return isinstance(value, dict) and needed <= set(value)
    return isinstance(value, (int, float) if kind is float else kind)
