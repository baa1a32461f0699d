"""The library call behind `cunet depths`: the solver steps by noise level of a model that is already trained."""

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path

from continuous_unet.base.devices import pick_device
from continuous_unet.base.errors import InputError
from continuous_unet.base.results import CallResult, Json
from continuous_unet.base.signals import StopRequest, stop_on_signals
from continuous_unet.data import train_validation_split
from continuous_unet.deploy.calibration import open_for, origin
from continuous_unet.deploy.depth_options import DepthsOptions
from continuous_unet.diffusion.process import process_of
from continuous_unet.models.unet_2d import ContinuousUNet2DModel
from continuous_unet.ode import ADAPTIVE_METHODS
from continuous_unet.tasks.facts import SolverStepFacts, write_facts
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.generate.training import GenerateTask
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.tasks.packaged import refuse_packaged
from continuous_unet.tasks.saved import model_folder
from continuous_unet.training.depths import describe, measure_depths


@dataclass
class DepthsResult(CallResult):
    """The result of `find_depths`."""

    model: str
    facts: SolverStepFacts

    def to_dict(self) -> Json:
        return {"model": self.model, **dataclasses.asdict(self.facts)}

    def to_text(self) -> str:
        """Returns the losses by number of solver steps and noise level, and the table."""
        width = self.facts.timesteps / len(self.facts.steps)
        ends = [f"<{(band + 1) * width:.0f}" for band in range(len(self.facts.steps))]
        lines = ["loss at timestep  " + "".join(f"{end:>9}" for end in ends)]
        for depth, losses in zip(self.facts.depths, self.facts.losses, strict=True):
            lines.append(f"{depth:>4} solver steps " + " " + "".join(f"{loss:>9.4f}" for loss in losses))
        return "\n".join([*lines, describe(self.facts)])


def find_depths(options: DepthsOptions, *, stop: StopRequest | None = None) -> DepthsResult:
    """Measures a model's loss by number of solver steps and noise level, and saves the best numbers with the model.

    Pipelines and `cunet sample` take them with `auto` in place of a number.

    Args:
        options: the model, the images, and the numbers to choose from.
        stop: asked before each batch. Signals stop the work if None.

    Raises:
        InputError: for a model without solver steps, and data or options that cannot be used.
        Stopped: if it was asked to stop; nothing has been saved then.
    """
    options.validate()
    refuse_packaged(options.model)
    pipeline = load_pipeline(options.model, device=pick_device(options.device))
    unet, known = pipeline.unet, pipeline.facts
    if not isinstance(unet, ContinuousUNet2DModel) or unet.config.method in ADAPTIVE_METHODS:
        raise InputError(f"{options.model} has no number of solver steps to choose; this is for continuous U-Nets")
    kinds = {
        "is conditioned on text": known.text is not None,
        "makes latents": known.codec is not None,
        "was distilled": known.sampler is not None and known.sampler.distilled,
    }
    for kind, has in kinds.items():
        if has:
            raise InputError(
                f"{options.model} {kind}, and images alone cannot measure its loss; train it with --solver-steps and "
                "held-out images, which measures the same"
            )
    own = unet.config.num_solver_steps
    depths = options.depths() or tuple(sorted({own, *(2**k for k in range(10) if 2**k < own)}))
    if len(depths) < 2:
        raise InputError(f"--solver-steps {depths[0]}: there is nothing to choose; give several, such as 1,2,4")
    run = origin(options.model)
    data = open_for(unet, options.data, run, conditions=known.conditions)
    classes = unet.config.num_class_embeds is not None
    dropout = 0.1 if known.conditions.null_class is not None else 0.0
    training = GenerateTraining(class_conditional=classes, condition_dropout=dropout)
    task = GenerateTask(training, process_of(pipeline.scheduler))
    task.use_data(data.report)
    number = options.num or run.config.data.num_validation or 1024
    _, held_out = train_validation_split(data, min(number, len(data) - 1), run.config.seed)  # as its training did
    with stop_on_signals() if stop is None else contextlib.nullcontext(stop) as request:
        facts = measure_depths(
            task,
            unet,
            held_out,
            depths,
            seed=options.seed,
            tolerance=options.tolerance,
            budget=options.budget,
            stop=request,
        )
    write_facts(model_folder(Path(options.model)), dataclasses.replace(known, solver_steps=facts))
    return DepthsResult(options.model, facts)
