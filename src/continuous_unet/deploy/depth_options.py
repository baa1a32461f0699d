"""The options of `cunet depths`. Imports no torch: `cunet --help` reads it."""

from dataclasses import dataclass

from continuous_unet.base.options import option
from continuous_unet.tasks.training_options import SolverTraining


@dataclass
class DepthsOptions(SolverTraining):
    """Options of `find_depths`."""

    name = "depths"

    model: str = option(
        "",
        "run folder of `cunet train`, or saved model, which the result is saved with",
        positional=True,
        required=True,
        metavar="RUN_OR_MODEL",
    )
    data: str = option("", "images like those that the model was trained on, to measure its loss", required=True)
    solver_steps: int | str | None = option(
        None,
        "numbers of solver steps to choose from, such as 1,2,4 (default: powers of two up to the model's own)",
        metavar="STEPS",
    )
    num: int | None = option(
        None, "number of images to measure on; as many as the model's run held out, or 1024, if left out", at_least=1
    )
    tolerance: float = option(
        0.01, "how far the mean loss may exceed that of the best numbers of solver steps, as a fraction", at_least=0
    )
    budget: float | None = option(
        None, "largest mean number of solver steps; as many as the tolerance asks for if left out", at_least=1
    )
    seed: int = option(0, "seed of the noise", at_least=0)
    device: str | None = option(None, "cpu, cuda or mps (default: the best one available)")
