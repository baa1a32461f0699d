"""The parts of a training run, and everything that it writes: records, validations, pictures and checkpoints."""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from accelerate import Accelerator

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.files import replace_folder
from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import Stopped, StopRequest
from continuous_unet.data import TrainingData
from continuous_unet.data.loading import HeldOut
from continuous_unet.images.grids import write_png
from continuous_unet.tasks.base import PictureContext, Task
from continuous_unet.tasks.facts import SolverStepFacts
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
from continuous_unet.tasks.network import Network
from continuous_unet.training import checkpoints
from continuous_unet.training.config import TrainConfig
from continuous_unet.training.depths import describe, measure_depths
from continuous_unet.training.folder import RunFolder
from continuous_unet.training.guards import Guard, TrainingDiverged
from continuous_unet.training.state import Learner, TrainState
from continuous_unet.training.validation import validate

VALIDATED = ("validation_loss", "validation_psnr", "degraded_loss", "degraded_psnr")
"""What a run keeps of its last validation, by the names of the records."""
DRAWS = "philox4x32-10"
"""Name of the random draws of this version. Each checkpoint records the one that it was made with."""


@dataclass
class TrainingRun:
    """The parts of a run, as `run.assemble` makes them, and the outputs that are written from them."""

    config: TrainConfig
    accelerator: Accelerator
    folder: RunFolder
    task: Task
    data: TrainingData
    held_out: HeldOut | None
    learner: Learner
    processes: Processes
    teacher: Network | None = None
    """The model that the task learns from, if it has one."""
    stop: StopRequest = field(default_factory=StopRequest)
    stopped_by: int | None = None
    """Number of the signal that ends the run."""
    validated: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(VALIDATED))
    """Results of the last validation by name, None where the task does not measure it."""
    solver_steps: SolverStepFacts | None = None
    """Solver steps by noise level, measured at the end of a run of an elastic model."""

    def __post_init__(self) -> None:
        self.state = TrainState(draws=DRAWS, num_processes=self.processes.count)
        self.depths = self.config.depths
        self.guard = Guard(self.config, self.data, self.processes, self.folder)
        self.started = time.perf_counter()

    def mean_loss(self) -> float:
        """Returns the mean over the steps since the last record, where it is finite, and over all processes."""
        losses = torch.stack(self.state.losses)
        mean = losses[losses.isfinite()].mean()  # NaN if no loss is finite
        return float(self.accelerator.gather(mean[None]).nanmean())

    def record(self, **values: float) -> None:
        """Appends a record of this step, in the main process."""
        if not self.processes.main:
            return
        state = self.state
        values = {"learning_rate": float(self.learner.lr_scheduler.get_last_lr()[0]), **values}
        self.folder.record(step=state.step, images_seen=state.images_seen, seconds=round(self.seconds(), 3), **values)
        if self.config.records.logger != "none":
            self.accelerator.log(values, step=state.step)

    def seconds(self) -> float:
        """Returns the seconds spent on this run, including those before it was resumed."""
        return self.state.seconds + time.perf_counter() - self.started

    def validate(self) -> None:
        """Measures the averaged weights on the held-out images, with all processes; a signal ends this early."""
        if self.held_out is None:
            return
        with self._until_stopped(), self.learner.averaged():
            task, model, seed = self.task, self.learner.bare, self.config.seed
            metrics = validate(
                task,
                model,
                self.held_out,
                seed=seed,
                processes=self.processes,
                stop=self.stop,
                teacher=self.teacher,
            )
            self.validated = {name: metrics.get(name) for name in VALIDATED}
            self.record(**metrics)

    def measure_depths(self) -> None:
        """Measures which number of solver steps is worth its cost at which noise level, for an elastic model.

        This needs held-out images, and a model that is sampled from. The error of a student does not depend on the
        noise level, so that it gets no table. A signal ends it early.
        """
        pipeline = self.task.pipeline(self.learner.bare)
        sampled = isinstance(pipeline, DiffusionSamplingPipeline) and pipeline.facts.sampler is None
        if len(self.depths) < 2 or self.held_out is None or not sampled:
            return
        with self._until_stopped(), self.learner.averaged():
            self.solver_steps = measure_depths(
                self.task,
                self.learner.bare,
                self.held_out,
                self.depths,
                seed=self.config.seed,
                processes=self.processes,
                stop=self.stop,
            )
            self.processes.say(describe(self.solver_steps))

    def picture(self) -> None:
        """Makes a picture from the averaged weights, with all processes; a signal ends this early."""
        with self._until_stopped(), self.learner.averaged():
            images = cast(Iterable[dict[str, Any]], self.held_out or self.data)  # which index or iterate
            context = PictureContext(self.learner.bare, images, self.processes, self.stop)
            picture = self.task.picture(context)
            self.processes.by_main(lambda: write_png(picture, self.folder.picture(self.state.step)))

    @contextlib.contextmanager
    def _until_stopped(self) -> Iterator[None]:
        try:
            yield
        except Stopped as stopped:
            self.stopped_by = stopped.signal

    def save(self) -> None:
        """Writes the checkpoint and the model, in the main process.

        Raises:
            TrainingDiverged: if the weights are not finite.
        """
        state = self.state
        if not all(p.isfinite().all() for p in self.learner.model.parameters()):  # the same in all processes
            raise TrainingDiverged(
                f"the weights are not finite after step {state.step}, and are not saved; the last checkpoint is good; "
                "start a new run with a smaller --learning-rate"
            )
        if state.losses:  # the mean of all processes: each takes it from here when it resumes
            state.losses = list(self.accelerator.reduce(torch.stack(state.losses), "mean"))

        def write() -> None:
            self.folder.sync_records()  # without the records before it, a checkpoint could not be resumed exactly
            tensors, numbers = self.learner.state_dict()
            numbers |= dataclasses.replace(state, seconds=self.seconds()).to_dict()
            checkpoints.save_checkpoint(self.folder.checkpoints, state.step, tensors, numbers)
            self._write_model()
            checkpoints.remove_old(self.folder.checkpoints, state.step, self.config.records.keep_checkpoints)

        self.processes.by_main(write)

    def _write_model(self) -> None:
        """Writes the model to use, with the averaged weights, in the main process."""
        with self.learner.averaged():
            pipeline = self.task.pipeline(self.learner.bare)
            if isinstance(pipeline, DiffusionSamplingPipeline) and self.solver_steps is not None:
                pipeline.facts = dataclasses.replace(pipeline.facts, solver_steps=self.solver_steps)
            replace_folder(self.folder.model, pipeline.save_pretrained)

    def restore(self) -> None:
        """Restores the run from its newest complete checkpoint, which every process reads for itself.

        Raises:
            InputError: for a checkpoint of another run, or of an earlier version.
        """
        path = checkpoints.latest_valid(self.folder.checkpoints)
        if path is None:
            self.processes.say("no checkpoint yet: starting from the beginning")
            self.processes.by_main(lambda: self.folder.cut_records(0))
            return
        tensors, numbers = checkpoints.load_checkpoint(path)
        if numbers.get("draws") != DRAWS:
            raise InputError(
                f"{path} was written by an earlier version with other random draws, and cannot be resumed; start a new "
                f"run from its model: leave out --resume, and give --start-from {self.folder.path} and a new --output"
            )
        try:
            self.learner.load_state_dict(tensors, numbers)
            self.state = TrainState.from_dict(numbers, self.accelerator.device)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            what = f"{path / 'state.json'} is not of a run of this version"
            raise InputError(f"{what} ({first_line(error)}); remove {path}") from error
        if self.state.num_processes != self.processes.count:
            self.processes.say(
                f"this run had {self.state.num_processes} processes and now has {self.processes.count}: it continues "
                "in the data where it was, but not bit for bit"
            )
            self.state.num_processes = self.processes.count
        self.processes.by_main(lambda: self.folder.cut_records(self.state.step))
        self.validated = self.processes.from_main({name: self.folder.last(name) for name in VALIDATED})
        self.processes.say(f"resumed from {path.name}; the resumption is {self.data.resume_promise}")

    def make_up(self) -> None:
        """Makes up for the validation and picture that were due at this step if a signal or kill prevented them."""
        step, every = self.state.step, self.config.records
        if step == 0:
            return
        if step == self.config.steps:
            self.measure_depths()
        self.processes.by_main(self._write_model)  # it may be that of an older checkpoint, or of a damaged one
        validated = any(r["step"] == step and "validation_loss" in r for r in self.folder.records())
        validated, drawn = self.processes.from_main((validated, self.folder.picture(step).is_file()))
        if not validated and self.is_due(every.validate_every):
            self.validate()
        if not drawn and self.is_due(every.sample_every):
            self.picture()

    def is_due(self, every: int) -> bool:
        """Returns whether something is due at this step; a run that was stopped leaves it to its resumption."""
        return self.stopped_by is None and (self.state.step == self.config.steps or self.state.step % every == 0)

    def leave(self) -> None:
        """Leaves the group of processes; nothing may communicate afterwards.

        A process whose DistributedDataParallel outlived the group was seen to hang in its destructor.
        """
        del self.learner.wrapped
        self.accelerator.free_memory()
        self.accelerator.end_training()
