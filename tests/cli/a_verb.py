"""A verb of the tests' own: the skeleton is tested with it, so that nothing has to be computed."""

from dataclasses import dataclass, field
from typing import Any, Literal

from continuous_unet.base.errors import InputError, RunFailed
from continuous_unet.base.options import Options, option, section, variants
from continuous_unet.base.results import CallResult
from continuous_unet.base.signals import Stopped
from continuous_unet.cli.verb import Verb


@dataclass
class Optimizer(Options):
    batch_size: int = option(32, "images per training step", at_least=1)
    learning_rate: float = option(1e-3, "learning rate", above=0)


@dataclass
class Generate(Options):
    loss: Literal["squared"] = option("squared", "error to minimise")


@dataclass
class Denoise(Options):
    sigma: str = option("0:55", "noise to remove, on the 0–255 scale")
    blind: bool = option(True, "whether the model has to guess the noise")


@dataclass
class WorkOptions(Options):
    model: str = option("", "a run folder", positional=True, old=("--model",), metavar="MODEL", required=True)
    inputs: list[str] = option([], "image files", metavar="FILE")
    output: str = option("out", "folder of the result", short="-o", metavar="FOLDER")
    scheduler: Literal["ddim", "dpm++"] = option("ddim", "sampling method", old=("--sampler", "--main-sampler"))
    fail: str = option("", "what goes wrong: 100 % of it")
    clip: float | None = option(1.0, "largest norm of the gradient", above=0)
    sizes: list[int] = option([8, 16], "sizes in pixels", at_least=1)
    ema: bool = option(True, "keep a moving average", old=("--average",))
    model_options: dict[str, Any] = option({}, "constructor arguments of the model")
    task: Options = variants({"generate": Generate, "denoise": Denoise}, "generate", "what the model learns")
    optimizer: Optimizer = section(Optimizer, "optimizer")


@dataclass
class WorkResult(CallResult):
    options: WorkOptions
    resumed: bool
    seconds: float = 1.0
    stopped_by: int | None = None
    told: list[str] = field(default_factory=list)

    def to_text(self) -> str:
        return f"{self.options.model} done"

    def notes(self) -> list[str]:
        return self.told


class OutOfMemoryError(RuntimeError):
    """Named like torch's own."""


FAILURES = {
    "input": InputError("the\nfile is damaged"),
    "run": RunFailed("the loss is not finite"),
    "memory": MemoryError(),
    "gpu memory": OutOfMemoryError("CUDA"),
    "package": ImportError("No module named 'accelerate'"),
    "bug": ZeroDivisionError("division by zero"),
    "silent bug": AssertionError(),
    "stop": Stopped(15),
    "interrupt": KeyboardInterrupt(),
}


def work(options: WorkOptions, resume: bool = False) -> WorkResult:
    if options.fail in FAILURES:
        raise FAILURES[options.fail]
    stopped_by = 2 if options.fail == "stopped" else None
    return WorkResult(options, resume, stopped_by=stopped_by, told=["stopped early"] if stopped_by else [])


def begun(output: str) -> dict[str, Any]:
    return {"model": f"{output}/model", "sizes": [1], "task": {"name": "denoise", "sigma": "7"}}


WORK = Verb(WorkOptions, "tests.cli.a_verb:work", "Work on something.\n\ncunet work MODEL", resume=begun)
