"""The training loop, and one step of it. Everything that they use has an owner; `run` puts the parts together.

Nothing random is carried from step to step: noise and time of the image at position p of the data's sequence come from
`(seed, p)`, dropout from `(seed, step)`. A run that was killed and resumed computes what it would have computed.
"""

import contextlib
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from tqdm import tqdm

from continuous_unet.diffusion.draws import Stream, normal, seed_dropout, uniform
from continuous_unet.tasks.base import StepContext
from continuous_unet.training.guards import GradientGuard, ImageGuard, Seen
from continuous_unet.training.outputs import TrainingRun
from continuous_unet.training.report import TrainResult

Batch = tuple[range, dict[str, Any]]
"""The positions of a batch in the data's global sequence, and its tensors."""


@dataclass
class Trainer(TrainingRun):
    """Trains a run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = self.config.optimizer.max_non_finite_steps
        self.gradients = GradientGuard(limit, self.data, self.processes, self.folder)
        share = None if self.config.data.on_bad_image == "error" else self.config.data.max_bad_images
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
        self.learner.wrapped.train()

        # The batches are closed here, whatever happens: workers that nobody told to end would outlive the run.
        with bar, contextlib.closing(batches):
            self.make_up()
            while state.step < config.steps and self.stopped_by is None:
                gradient_norm = self.take_step(batches)
                bar.update()
                last = state.step == config.steps
                self.stopped_by = self.processes.agreed(self.stop)

                if last or state.step % every.log_every == 0:
                    now = time.perf_counter()
                    speed = (state.images_seen - record_image) / (now - record_started)
                    record_started, record_image = now, state.images_seen
                    loss = self.mean_loss()
                    state.losses.clear()
                    bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
                    self.record(loss=loss, gradient_norm=float(gradient_norm), images_per_second=round(speed, 2))
                if self.is_due(every.validate_every):
                    self.validate()
                if last or self.stopped_by or state.step % every.checkpoint_every == 0:
                    self.save()
                if self.is_due(every.sample_every):
                    self.picture()

        seconds = time.perf_counter() - self.started
        result = TrainResult(
            run=str(self.folder.path),
            steps=state.step,
            images_seen=state.images_seen,
            loss=self.mean_loss() if state.losses else loss,
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
            self.processes.by_main(lambda: self.write_report(result))
        return result

    def take_step(self, batches: Iterator[Batch]) -> Tensor:
        """Changes the weights once, and counts it; returns the norm of the gradient."""
        accelerator, learner, state = self.accelerator, self.learner, self.state
        seen = Seen()
        for part in range(self.config.optimizer.gradient_accumulation_steps):
            positions, batch = next(batches)
            step = self._context(positions, batch)
            seed_dropout(self.config.seed, state.step, part, self.processes.rank)
            with accelerator.accumulate(learner.wrapped):
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
        seed, device = self.config.seed, self.accelerator.device
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
            pin_memory=self.accelerator.device.type == "cuda",
        )
