"""The training loop, and one step of it. The module `run` assembles the parts that they use.

No random state is carried from step to step. The noise and the time of the image at position p of the data's sequence
follow from `(seed, p)`, and dropout from `(seed, step)`. A killed and resumed run computes what it would have computed.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from continuous_unet.base.threads import CoreShare, chosen_by_user
from continuous_unet.diffusion.draws import Stream, normal, seed_dropout, uniform
from continuous_unet.tasks.base import StepContext
from continuous_unet.tasks.depths import draw_shallow
from continuous_unet.training.guards import Seen
from continuous_unet.training.loading import how_to_load
from continuous_unet.training.outputs import TrainingRun
from continuous_unet.training.report import TrainResult, write_report

Batch = tuple[range, dict[str, Tensor]]
"""The positions of a batch in the data's global sequence, and its tensors."""


@contextlib.contextmanager
def keeping_threads() -> Iterator[None]:
    """Restores the number of threads at the end."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Trainer(TrainingRun):
    """Trains a run."""

    said_shared = False
    """Whether the user knows that the number of threads changes."""

    def run(self) -> TrainResult:
        """Trains up to `config.steps`, or until a signal asks to stop."""
        config, state, every, processes = self.config, self.state, self.config.records, self.processes
        before = self.folder.last("loss")
        loss = math.nan if before is None else before
        first_step, first_image = state.step, state.images_seen
        record_started, record_image = time.perf_counter(), state.images_seen
        batches = self.data.loader(
            config.optimizer.batch_size,
            start=state.images_seen,
            rank=processes.rank,
            world_size=processes.count,
            pin_memory=self.accelerator.device.type == "cuda",
            **how_to_load(config.data, self.data, self.accelerator.device, processes),
        )  # not prepared by accelerate: the data does the sharding, and accelerate would reshuffle after a resumption
        cores = self.shared_cores()
        bar = tqdm(total=config.steps, initial=state.step, desc="training", unit="step", disable=not processes.main)
        self.learner.wrapped.train()

        # The batches are closed here, whatever happens: workers that are not asked to end would outlive the run.
        with bar, contextlib.closing(batches), keeping_threads():
            self.make_up()
            while state.step < config.steps and self.stopped_by is None:
                if cores is not None:
                    self.share(cores)
                gradient_norm = self.take_step(batches)
                bar.update()
                last = state.step == config.steps
                self.stopped_by = processes.agreed(self.stop)
                frequencies = every.log_every, every.validate_every, every.checkpoint_every, every.sample_every
                if last or self.stopped_by or any(state.step % number == 0 for number in frequencies):
                    self.settle()

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
                if last and self.stopped_by is None:
                    self.measure_depths()
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
            **self.validated,
            seconds=seconds,
            images_per_second=(state.images_seen - first_image) / seconds,
            num_parameters=self.learner.num_parameters,
            stopped_by=self.stopped_by,
        )
        if self.stopped_by is not None:
            processes.say(f"stopped at step {state.step}; continue with --resume")
        elif state.step == first_step:
            processes.say(f"the run already has {state.step} steps; raise --steps to train it further")
        if self.stopped_by is None and (state.step > first_step or not self.folder.report.is_file()):
            processes.by_main(lambda: write_report(self, result))
        return result

    def shared_cores(self) -> CoreShare | None:
        """Returns what chooses the number of threads; None where it is settled.

        It is settled on a GPU, by the user, and by a compiler, which writes it into the code.
        """
        settled = self.accelerator.device.type != "cpu" or self.config.model.compile or chosen_by_user()
        return None if settled or torch.get_num_threads() == 1 else CoreShare(torch.get_num_threads())

    def share(self, cores: CoreShare) -> None:
        """Leaves other programs the cores that they need, and takes them again when they are free."""
        threads = cores.look()
        if threads is None:
            return
        torch.set_num_threads(threads)
        if not self.said_shared:
            self.said_shared = True
            self.processes.say(
                f"other programs need the cores too, so the training goes on with {threads} of {cores.most} threads "
                f"until they are free (OMP_NUM_THREADS={cores.most} keeps them all)"
            )

    def take_step(self, batches: Iterator[Batch]) -> Tensor:
        """Changes the weights once, and counts it; returns the norm of the gradient."""
        accelerator, learner, task, state = self.accelerator, self.learner, self.task, self.state
        settings = self.config.optimizer
        seen: list[Seen] = []
        for part in range(settings.gradient_accumulation_steps):
            positions, batch = next(batches)
            step = self.context(positions, batch)
            self.seed_dropout(part)
            with accelerator.accumulate(learner.wrapped):
                with accelerator.autocast():
                    losses = task.loss(step)
                accelerator.backward(losses.mean())
            seen.append(Seen(batch["index"], batch["unreadable"], step.times, losses.detach()))

        limit = settings.gradient_clip
        norm = accelerator.clip_grad_norm_(learner.model.parameters(), math.inf if limit is None else limit)
        # The norm is of the gradient summed over all processes, so that all of them decide alike.
        finite = bool(norm.isfinite())
        if finite or learner.scaler is not None:  # the scaler of float16 must see an overflow, and skips the update
            learner.optimizer.step()
        if finite:
            learner.lr_scheduler.step()
            if learner.ema is not None:
                learner.ema.step(learner.model.parameters())
        learner.optimizer.zero_grad()
        self.guard.check_gradient(state, finite, seen)
        self.guard.check_images(state, seen)
        state.step += 1
        state.images_seen += settings.batch_size * settings.gradient_accumulation_steps * self.processes.count
        state.losses.append(torch.stack([part.losses.mean() for part in seen]).mean())
        return norm

    def context(self, positions: range | Tensor, batch: Mapping[str, Tensor]) -> StepContext:
        """Returns what the task is given of a batch, with the random numbers of its positions.

        Args:
            positions: those of the batch, or their `draws.halves`, which do for models of one depth.
            batch: as the data's loader yields it.
        """
        task, seed, device, step = self.task, self.config.seed, self.accelerator.device, self.state.step
        clean = batch["image"].to(device, non_blocking=True, memory_format=self.learner.memory_format)
        draws = uniform(seed, Stream.CONDITIONS, positions, device) if task.condition_dropout > 0 else None
        noise = normal(seed, Stream.TRAINING_NOISE, positions, clean.shape[1:], device)
        shallow = None
        if isinstance(positions, range):
            progress = step / self.config.steps
            shallow = draw_shallow(self.depths, seed=seed, step=step, progress=progress, positions=positions)
        return StepContext(
            model=self.learner.network,
            process=task.process,
            clean=clean,
            noise=noise.to(memory_format=self.learner.memory_format),
            times=task.process.draw_times(uniform(seed, Stream.TRAINING_TIMES, positions, device)),
            conditions=task.conditions(batch, device, draws),
            step=step,
            shallow=shallow,
            positions=positions,
            teacher=self.teacher,
        )

    def seed_dropout(self, part: int) -> None:
        """Seeds dropout for one batch of a training step."""
        seed_dropout(self.config.seed, self.state.step, part, self.processes.rank)

    def settle(self) -> None:
        """Brings the state of the run up to date with the steps that were taken; here it always is."""
