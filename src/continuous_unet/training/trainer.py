"""The training loop, and one step of it. Everything that they use has an owner; `run` puts the parts together.

Nothing random is carried from step to step: noise and time of the image at position p of the data's sequence come from
`(seed, p)`, dropout from `(seed, step)`. A run that was killed and resumed computes what it would have computed.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.files import replace_folder, replace_text
from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import Stopped, StopRequest
from continuous_unet.data import ImageDataset, TrainingData
from continuous_unet.diffusion.draws import Stream, normal, seed_dropout, uniform
from continuous_unet.images.grids import write_png
from continuous_unet.tasks.base import PictureContext, StepContext, Task
from continuous_unet.training import checkpoints
from continuous_unet.training.config import TrainConfig
from continuous_unet.training.folder import RunFolder
from continuous_unet.training.guards import GradientGuard, ImageGuard, Seen, TrainingDiverged
from continuous_unet.training.report import TrainResult, duration, plot_losses, report_text
from continuous_unet.training.state import Learner, TrainState
from continuous_unet.training.validation import validate

DRAWS = "philox4x32-10"
"""Name of the random draws of this version, which a checkpoint says that it was made with."""
Batch = tuple[range, dict[str, Any]]
"""The positions of a batch in the data's global sequence, and its tensors."""


@dataclass
class Trainer:
    """The parts of a run, made by `run`, and the loop over its steps."""

    config: TrainConfig
    accelerator: Accelerator
    folder: RunFolder
    task: Task
    data: TrainingData
    held_out: ImageDataset | None
    learner: Learner
    processes: Processes
    stop: StopRequest = field(default_factory=StopRequest)
    stopped_by: int | None = None
    validation_loss: float | None = None

    def __post_init__(self) -> None:
        config = self.config
        self.device: torch.device = self.accelerator.device
        self.state = TrainState(draws=DRAWS, num_processes=self.processes.count)
        self.started = time.perf_counter()
        limit = config.optimizer.max_non_finite_steps
        self.gradients = GradientGuard(limit, self.data, self.processes, self.folder)
        share = None if config.data.on_bad_image == "error" else config.data.max_bad_images
        self.images = ImageGuard(share, self.data, self.processes, self.folder)

    def run(self) -> TrainResult:
        """Trains up to `config.steps`, or until a signal asks to stop."""
        config, state, every = self.config, self.state, self.config.records
        before = self.folder.last("loss")
        loss = math.nan if before is None else before
        first_step, first_image = state.step, state.images_seen
        record_started, record_image = time.perf_counter(), state.images_seen
        batches = self._batches()
        bar = tqdm(
            total=config.steps, initial=state.step, desc="training", unit="step", disable=not self.processes.main
        )
        self.learner.model.train()

        # The batches are closed here, whatever happens: workers that nobody told to end would outlive the run.
        with bar, contextlib.closing(batches):
            self._make_up()
            while state.step < config.steps and self.stopped_by is None:
                gradient_norm = self.take_step(batches)
                bar.update()
                last = state.step == config.steps
                self.stopped_by = self.processes.agreed(self.stop)

                if last or state.step % every.log_every == 0:
                    now = time.perf_counter()
                    speed = (state.images_seen - record_image) / (now - record_started)
                    record_started, record_image = now, state.images_seen
                    loss = self._mean_loss()
                    state.losses.clear()
                    bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
                    self._record(loss=loss, gradient_norm=float(gradient_norm), images_per_second=round(speed, 2))
                if self._is_due(every.validate_every):
                    self._validate()
                if last or self.stopped_by or state.step % every.checkpoint_every == 0:
                    self._save()
                if self._is_due(every.sample_every):
                    self._picture()

        seconds = time.perf_counter() - self.started
        result = TrainResult(
            run=str(self.folder.path),
            steps=state.step,
            images_seen=state.images_seen,
            loss=self._mean_loss() if state.losses else loss,
            validation_loss=self.validation_loss,
            seconds=seconds,
            images_per_second=(state.images_seen - first_image) / seconds,
            num_parameters=self.learner.num_parameters,
            stopped_by=self.stopped_by,
        )
        if self.stopped_by is not None:
            self.processes.say(f"stopped at step {state.step}; go on with --resume")
        elif state.step == first_step:
            self.processes.say(f"the run already has {state.step} steps; raise --steps to train it further")
        if self.stopped_by is None and (state.step > first_step or not self.folder.report.is_file()):
            self.processes.by_main(lambda: self._report(result))
        return result

    def take_step(self, batches: Iterator[Batch]) -> Tensor:
        """Changes the weights once, and counts it; returns the norm of the gradient."""
        accelerator, learner, state = self.accelerator, self.learner, self.state
        seen = Seen()
        for part in range(self.config.optimizer.gradient_accumulation_steps):
            positions, batch = next(batches)
            step = self._context(positions, batch)
            seed_dropout(self.config.seed, state.step, part, self.processes.rank)
            with accelerator.accumulate(learner.network):
                with accelerator.autocast():
                    losses = self.task.loss(step)
                accelerator.backward(losses.mean())
            seen.add(batch, step.times, losses)
        limit = self.config.optimizer.gradient_clip
        norm = accelerator.clip_grad_norm_(learner.model.parameters(), math.inf if limit is None else limit)
        learner.update(self.gradients.check(state, norm, seen))
        self.images.check(state, seen)
        state.count_step(seen.mean_loss(), self.images_per_step)
        return norm

    def _context(self, positions: range, batch: dict[str, Tensor]) -> StepContext:
        """Returns a batch with the noise and the times of its positions in the data's sequence."""
        seed, device = self.config.seed, self.device
        clean = batch["image"].to(device)
        return StepContext(
            model=self.learner.network,
            process=self.task.process,
            clean=clean,
            noise=normal(seed, Stream.TRAINING_NOISE, positions, clean.shape[1:], device),
            times=self.task.process.draw_times(uniform(seed, Stream.TRAINING_TIMES, positions, device)),
            labels=batch["label"].to(device) if self.task.class_conditional else None,
            step=self.state.step,
        )

    @property
    def images_per_step(self) -> int:
        """Number of images of a training step, of all processes."""
        optimizer = self.config.optimizer
        return optimizer.batch_size * optimizer.gradient_accumulation_steps * self.processes.count

    def _batches(self) -> Generator[Batch, None, None]:
        """Returns endless batches from the current step on.

        The loader is not prepared by accelerate: the data does the sharding, and accelerate would reshuffle after a
        resumption.
        """
        return self.data.loader(
            self.config.optimizer.batch_size,
            start=self.state.images_seen,
            rank=self.processes.rank,
            world_size=self.processes.count,
            num_workers=self.config.data.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _is_due(self, every: int) -> bool:
        """Whether something is to be done at this step; a run that a signal stops leaves it for its resumption."""
        return self.stopped_by is None and (self.state.step == self.config.steps or self.state.step % every == 0)

    def _make_up(self) -> None:
        """Does what was due at the step that the run was stopped at and was left out, or cut off by a kill."""
        step, every = self.state.step, self.config.records
        if step == 0:
            return
        self.processes.by_main(self._write_model)  # it may be that of an older checkpoint, or of a damaged one
        validated = any(r["step"] == step and "validation_loss" in r for r in self.folder.records())
        validated, drawn = self.processes.from_main((validated, self.folder.picture(step).is_file()))
        if not validated and self._is_due(every.validate_every):
            self._validate()
        if not drawn and self._is_due(every.sample_every):
            self._picture()

    def _validate(self) -> None:
        """Measures the averaged weights on the held-out images, with all processes; given up if a signal comes."""
        if self.held_out is None:
            return
        with self._until_stopped(), self.learner.averaged():
            metrics = validate(
                self.task,
                self.learner.model,
                self.held_out,
                seed=self.config.seed,
                processes=self.processes,
                stop=self.stop,
            )
            self.validation_loss = metrics["validation_loss"]
            self._record(**metrics)

    def _picture(self) -> None:
        """Makes a picture from the averaged weights, with all processes; given up if a signal comes."""
        classes = self.data.num_classes if self.task.class_conditional else None
        with self._until_stopped(), self.learner.averaged():
            context = PictureContext(self.learner.model, self.held_out or self.data, classes, self.processes, self.stop)
            picture = self.task.picture(context)
            self.processes.by_main(lambda: write_png(picture, self.folder.picture(self.state.step)))

    @contextlib.contextmanager
    def _until_stopped(self) -> Iterator[None]:
        try:
            yield
        except Stopped as stopped:
            self.stopped_by = stopped.signal

    def _mean_loss(self) -> float:
        """Returns the mean over the steps since the last record, where it is finite, and over all processes."""
        losses = torch.stack(self.state.losses)
        mean = losses[losses.isfinite()].mean()  # NaN if no loss is finite
        return float(self.accelerator.gather(mean[None]).nanmean())

    def _record(self, **values: float) -> None:
        if not self.processes.main:
            return
        state = self.state
        values = {"learning_rate": self.learner.lr_scheduler.get_last_lr()[0], **values}
        self.folder.record(step=state.step, images_seen=state.images_seen, seconds=round(self._seconds(), 3), **values)
        if self.config.records.logger != "none":
            self.accelerator.log(values, step=state.step)

    def _seconds(self) -> float:
        """Returns the time spent on this run, also before it was resumed."""
        return self.state.seconds + time.perf_counter() - self.started

    def _save(self) -> None:
        """Writes checkpoint and model, by the main process."""
        state = self.state
        if not self.learner.is_finite():  # the same in all processes
            raise TrainingDiverged(
                f"the weights are not finite after step {state.step}, and are not saved; the last checkpoint is good; "
                "start a new run with a smaller --learning-rate"
            )
        if state.losses:  # the mean of all processes: each takes it from here when it resumes
            state.losses = list(self.accelerator.reduce(torch.stack(state.losses), "mean"))

        def write() -> None:
            self.folder.sync_records()  # without the records before it, a checkpoint could not be resumed exactly
            tensors, numbers = self.learner.state_dict()
            numbers |= dataclasses.replace(state, seconds=self._seconds()).to_dict()
            checkpoints.save_checkpoint(self.folder.checkpoints, state.step, tensors, numbers)
            self._write_model()
            checkpoints.remove_old(self.folder.checkpoints, state.step, self.config.records.keep_checkpoints)

        self.processes.by_main(write)

    def _write_model(self) -> None:
        """Writes what can be used, with the averaged weights; by the main process."""
        with self.learner.averaged():
            replace_folder(self.folder.model, self.task.pipeline(self.learner.model).save_pretrained)

    def restore(self) -> None:
        """Takes everything from the newest whole checkpoint. Every process reads it for itself.

        Raises:
            InputError: for a checkpoint of another run or of an earlier version.
        """
        path = checkpoints.latest_valid(self.folder.checkpoints)
        if path is None:
            self.processes.say("no checkpoint yet: starting from the beginning")
            self.processes.by_main(lambda: self.folder.cut_records(0))
            return
        tensors, numbers = checkpoints.load_checkpoint(path)
        if numbers.get("draws") != DRAWS:
            raise InputError(
                f"{path} is of an earlier version, whose random draws were others, and cannot be resumed; start a new "
                f"run from its model: leave out --resume, and give --start-from {self.folder.path} and a new --output"
            )
        try:
            self.learner.load_state_dict(tensors, numbers)
            self.state = TrainState.from_dict(numbers, self.device)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            what = f"{path / 'state.json'} is not of a run of this version"
            raise InputError(f"{what} ({first_line(error)}); remove {path}") from error
        if self.state.num_processes != self.processes.count:
            self.processes.say(
                f"this run had {self.state.num_processes} processes and now has {self.processes.count}: it goes on in "
                f"the data where it was, with {self.images_per_step} images in a step, but not bit for bit"
            )
            self.state.num_processes = self.processes.count
        self.processes.by_main(lambda: self.folder.cut_records(self.state.step))
        self.validation_loss = self.processes.from_main(self.folder.last("validation_loss"))
        self.processes.say(f"resumed from {path.name}; the resumption is {self.data.resume_promise}")

    def _report(self, result: TrainResult) -> None:
        has_plot = plot_losses(self.folder.records(), self.folder.path / "loss.png")
        text = report_text(
            self.config,
            self.data.report,
            result,
            picture=f"samples/{self.folder.picture(result.steps).name}",
            has_plot=has_plot,
            usage=self.task.usage(result.run),
            model=f"{type(self.learner.model).__name__}, {result.num_parameters:,} parameters, on {self.device}",
            time=duration(self._seconds()),
        )
        replace_text(self.folder.report, text)

    def leave(self) -> None:
        """Leaves the group of processes when nothing that communicates is left; the last thing to do.

        A process whose DistributedDataParallel outlived the group was seen to hang in its destructor.
        """
        del self.learner.network
        self.accelerator.free_memory()
        self.accelerator.end_training()
