"""The options of distillation. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import option
from continuous_unet.diffusion.options import ProcessOptions, VariancePreservingOptions
from continuous_unet.tasks.generate.options import GenerateTraining

if TYPE_CHECKING:
    from typing_extensions import Self

MOST_EVALUATIONS = 4


@dataclass
class DistillTraining(GenerateTraining):
    """Options of training a model that makes images in one to four evaluations."""

    name = "distill"

    method: Literal["ect", "sfd", "meanflow"] = option(
        "ect",
        "how the student learns: ect (its answers at neighbouring noise levels agree, arXiv 2406.14548), sfd (it takes "
        "the teacher's path in a few long steps, arXiv 2409.19681), or meanflow (it learns the mean velocity of long "
        "steps, arXiv 2505.13447)",
    )
    evaluations: int | None = option(
        None,
        "number of evaluations that the student makes an image with, 1 to 4; all of them if left out",
        between=(1, MOST_EVALUATIONS),
    )
    teacher_guidance: float = option(
        1.0,
        "classifier-free guidance scale of a teacher with classes or texts; the student learns the guided predictions, "
        "and then needs no guidance; 1 for none",
        between=(0, 1000),
    )
    mid_noise: float = option(
        3.0,
        "ratio of noise to signal at the second of two evaluations; the levels of other numbers follow from it",
        between=(0.1, 30),
    )
    fresh_noise: bool = option(False, "draw new noise before each evaluation but the first (only with --method ect)")
    q: float = option(
        32.0,
        "closeness of the two noise levels whose answers ect compares; larger is closer. The lower level is 1 - 5 / q "
        "of the higher one at little noise, and 1 - 1 / q of it at much noise",
        at_least=6,
        at_most=4096,
    )
    m: int = option(4, "number of parts that meanflow divides a long step into, to learn it from", between=(2, 64))

    def validate(self) -> "Self":
        super().validate()
        for name, method in {"q": "ect", "m": "meanflow", "fresh_noise": "ect"}.items():
            if self.method != method and getattr(self, name) != getattr(type(self)(), name):
                raise InputError(f"--{name.replace('_', '-')} is for --method {method}; leave it out")
        return self

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of evaluations that the student learns."""
        return tuple(range(1, MOST_EVALUATIONS + 1)) if self.evaluations is None else (self.evaluations,)

    @property
    def needs_jumps(self) -> bool:
        """Whether the student must be told where an evaluation jumps to."""
        return self.method == "meanflow" or (self.method == "sfd" and self.evaluations is None)

    def check_process(self, process: ProcessOptions) -> None:
        """Refuses min-SNR weights, which no method uses."""
        if isinstance(process, VariancePreservingOptions) and process.min_snr_gamma is not None:
            raise InputError("--min-snr-gamma is for --task generate; leave it out")
