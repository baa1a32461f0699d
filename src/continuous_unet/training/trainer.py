"""The training loop. What it uses has owners: noise, objective, EMA, snapshot, checkpoints, validation, samples…

Nothing random is carried from step to step: noise and timestep of the image at position p of the data's sequence come
from `(seed, p)`, dropout from `(seed, step)`. A run that was killed and resumed computes what it would have computed.
"""

import contextlib
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from continuous_unet.base.errors import InputError, RunFailed
from continuous_unet.base.files import replace_folder
from continuous_unet.base.processes import Processes
from continuous_unet.base.randomness import derive_seed
from continuous_unet.base.signals import Stopped, StopRequest, outlive_first_signal, stop_on_signals
from continuous_unet.data import EpochSampler, ImageDataset, open_dataset, too_many_bad, train_validation_split
from continuous_unet.data.streaming import RESUME, StreamDataset, is_stream, open_stream
from continuous_unet.diffusion.draws import seed_dropout, training_noise
from continuous_unet.images.grids import write_png
from continuous_unet.models.build import build_unet
from continuous_unet.tasks.registry import RestorationTask, make_task
from continuous_unet.training import checkpoints
from continuous_unet.training.config import TrainConfig
from continuous_unet.training.ema import averaged_weights, make_ema
from continuous_unet.training.folder import RunFolder
from continuous_unet.training.quantization_aware import round_convolutions
from continuous_unet.training.report import plot_losses, write_report
from continuous_unet.training.snapshot import Snapshot
from continuous_unet.training.start import load_start
from continuous_unet.training.validation import validation_loss


class TrainingDiverged(RunFailed):
    """Gradients were not finite for many steps in a row, or weights were not; the last good checkpoint stands."""


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    run: str
    steps: int
    images_seen: int
    loss: float
    """Mean training loss between the last two records."""
    validation_loss: float | None
    seconds: float
    """Of this call, without what was done before a resumption."""
    images_per_second: float
    num_parameters: int
    stopped_by: int | None
    """Number of the signal that ended the run early, if one did; the command line exits with 128 more."""


def train(config: TrainConfig, resume: bool = False) -> TrainResult:
    """Train a U-Net, continuous or discrete (presets `ddpm…`), for a task; write checkpoints, records and a report.

    Args:
        config: all settings.
        resume: go on from the newest whole checkpoint in `config.output`.

    SIGINT and SIGTERM, to any of the processes, end the run after the step at hand, with a checkpoint
    (`TrainResult.stopped_by`); validation and sampling are cut short, and made up for when the run is resumed. A second
    signal raises KeyboardInterrupt at once.

    Raises:
        InputError: for settings, data or files that cannot be used.
        TrainingDiverged: after `max_non_finite_steps` steps in a row without a finite gradient, or when the weights
            are not finite where a checkpoint is due.
    """
    config.validate()
    trainer = _Trainer(config, resume)
    try:
        return trainer.run()
    except Exception:
        trainer.leave()  # the others fail with this process, rather than wait for it
        raise


class _Trainer:
    """The parts of a run, made in order; `run` is the loop."""

    def __init__(self, config: TrainConfig, resume: bool) -> None:
        self.config = config
        self.accelerator = _make_accelerator(config)
        self.processes = Processes(self.accelerator.state)
        self.main = self.processes.main
        self.device = self.accelerator.device
        self.folder = RunFolder(config.output)

        self.task = make_task(config)
        self.data, self.held_out = self._open_data(resume)
        set_seed(derive_seed("weights", config.seed) % 2**32)
        self.model = self._make_model()  # the bare model; `network` may be wrapped and compiled, and shares its weights
        self._try_model()
        # After everything that can refuse the configuration, so that a refused run leaves no folder behind.
        facts = {
            "data": self.data.report.to_dict(),
            "num_parameters": self.num_parameters,
            "resume": RESUME if isinstance(self.data, StreamDataset) else "exact on a CPU with as many processes",
        }
        self._by_main(lambda: self.folder.start(config, resume, facts, self.data.file_names))

        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
        )
        self.lr_scheduler = get_scheduler(
            config.lr_schedule, optimizer, num_warmup_steps=config.lr_warmup_steps, num_training_steps=config.steps
        )
        self.network, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        if config.compile:
            self.network = torch.compile(self.network)
        self.ema = make_ema(self.model, config.ema_decay) if config.ema else None
        self.snapshot = Snapshot(
            self.model, self.optimizer.optimizer, self.lr_scheduler, self.ema, self.accelerator.scaler
        )

        self.step = 0
        self.images_seen = 0
        self.losses: list[Tensor] = []
        """Of the steps since the last record."""
        self.non_finite = 0
        """Steps in a row without a finite gradient."""
        self.unreadable: set[int] = set()
        """Numbers of the images that turned out unreadable while training, in any process."""
        self.stopped_by: int | None = None
        self.validation_loss: float | None = None
        self.seconds_before = 0.0
        """Spent on this run before it was resumed."""
        self.started = time.perf_counter()
        if resume:
            self._restore()
        if config.logger != "none":
            self.accelerator.init_trackers("continuous-unet")

    def say(self, text: str) -> None:
        """A line for people, from the main process, on stderr."""
        if self.main:
            tqdm.write(text, file=sys.stderr)

    def _by_main(self, action: Callable[[], object]) -> None:
        """Do something in the main process; the others wait, and raise the InputError that it raised."""
        problem = None
        if self.main:
            try:
                action()
            except InputError as error:
                if self.processes.count == 1:
                    raise
                problem = str(error)
        problem = self.processes.from_main(problem)
        if problem is not None:
            raise InputError(problem)

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def images_per_step(self) -> int:
        config = self.config
        return config.batch_size * config.gradient_accumulation_steps * self.accelerator.num_processes

    def _open_data(self, resume: bool) -> tuple[ImageDataset | StreamDataset, ImageDataset | None]:
        """What to train on and what is held out, None if nothing is."""
        config, task = self.config, self.task
        common: dict[str, Any] = {
            name: getattr(config, name) for name in ("channels", "random_flip", "seed", "max_bad_images")
        }
        # what the run does not say, the task does
        common |= {
            name: getattr(task if getattr(config, name) is None else config, name)
            for name in ("image_size", "fit", "random_crop")
        }
        if is_stream(config.data):
            if config.num_validation or config.class_conditional:
                raise InputError("a stream of shards has no images to hold out and no classes; leave these options out")
            stream = open_stream(config.data, **common, readers=self.processes.count * max(1, config.num_workers))
            self.say(stream.report.summary())
            return stream, None
        dataset = open_dataset(
            config.data,
            **common,
            on_bad_image=config.on_bad_image,
            names=self.folder.recorded_images() if resume else None,
            progress=self.main,
        )
        self.say(dataset.report.summary())
        if config.class_conditional and dataset.num_classes is None:
            raise InputError(f"class_conditional needs data with classes, and {config.data} has none")
        data, held_out = train_validation_split(dataset, config.num_validation, config.seed)
        return data, held_out if len(held_out) else None

    def _make_model(self) -> Any:
        config, report = self.config, self.data.report
        arguments: dict[str, Any] = {
            "sample_size": report.image_size,
            **self.task.model_arguments(report.channels),
        }
        if config.class_conditional:
            arguments["num_class_embeds"] = self.data.num_classes
        if config.start_from is not None:
            model = load_start(
                config, self.task.scheduler, report.image_size, report.channels, arguments.get("num_class_embeds")
            )
        else:
            try:
                model = build_unet(config.preset, **arguments, **config.model_options)
            except (ValueError, TypeError) as error:
                raise InputError(f"the model cannot be made: {error}") from error
        origin = config.start_from or config.preset
        self.say(f"{type(model).__name__} ({origin}): {model.num_parameters():,} parameters, on {self.device}")
        if config.quantization_aware:
            self.say(f"{round_convolutions(model)} convolutions round as in int8, also where loss and samples are made")
        return model

    @torch.no_grad()
    def _try_model(self) -> None:
        """Once on one image of zeros, so that a model that cannot compute is refused before anything is written."""
        report = self.data.report
        image = torch.zeros(1, self.model.config.in_channels, report.image_size, report.image_size)
        labels = torch.zeros(1, dtype=torch.long) if self.config.class_conditional else None
        try:
            self.model.eval()(image, 0, class_labels=labels)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"the model does not work on images of {report.image_size}x{report.image_size} pixels: {error}"
            ) from error

    def run(self) -> TrainResult:
        """Train up to `config.steps`, or until a signal asks to stop."""
        config = self.config
        before = self.folder.last("loss")
        loss = math.nan if before is None else before
        first_step, first_image = self.step, self.images_seen
        record_started, record_image = time.perf_counter(), self.images_seen
        batches = self._batches()
        bar = tqdm(total=config.steps, initial=self.step, desc="training", unit="step", disable=not self.main)
        self.network.train()

        # The batches are closed here, whatever happens: workers that nobody told to end would outlive the run.
        with stop_on_signals() as stop, bar, contextlib.closing(batches):
            self._make_up(stop)
            while self.step < config.steps and self.stopped_by is None:
                step_loss, gradient_norm = self._take_step(batches)
                self.losses.append(step_loss)
                self.step += 1
                self.images_seen += self.images_per_step
                bar.update()
                last = self.step == config.steps
                self.stopped_by = self.processes.agreed(stop)

                if last or self.step % config.log_every == 0:
                    now = time.perf_counter()
                    speed = (self.images_seen - record_image) / (now - record_started)
                    record_started, record_image = now, self.images_seen
                    loss = self._mean_loss()
                    self.losses.clear()
                    bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
                    self._record(loss=loss, gradient_norm=float(gradient_norm), images_per_second=round(speed, 2))
                if self._is_due(config.validate_every):
                    self._validate(stop)
                if last or self.stopped_by or self.step % config.checkpoint_every == 0:
                    self._save()
                if self._is_due(config.sample_every):
                    self._sample(stop)

        seconds = time.perf_counter() - self.started
        result = TrainResult(
            run=str(self.folder.path),
            steps=self.step,
            images_seen=self.images_seen,
            loss=self._mean_loss() if self.losses else loss,
            validation_loss=self.validation_loss,
            seconds=seconds,
            images_per_second=(self.images_seen - first_image) / seconds,
            num_parameters=self.num_parameters,
            stopped_by=self.stopped_by,
        )
        if self.stopped_by is not None:
            self.say(f"stopped at step {self.step}; go on with --resume")
        else:
            if self.step == first_step:
                self.say(f"nothing to do: the run has {self.step} steps already; raise --steps to train it further")
            if self.main and (self.step > first_step or not self.folder.report.is_file()):
                self._report(result)
        self.processes.wait()
        self.leave()
        return result

    def leave(self) -> None:
        """Leave the group of processes when nothing that communicates is left; the last thing to do.

        A process whose DistributedDataParallel outlived the group was seen to hang in its destructor.
        """
        self.network = None
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def _is_due(self, every: int) -> bool:
        """Whether something is to be done at this step; a run that was told to stop leaves it for its resumption."""
        return self.stopped_by is None and (self.step == self.config.steps or self.step % every == 0)

    def _make_up(self, stop: StopRequest) -> None:
        """What was due at the step that the run was stopped at and was left out, or cut off by a kill."""
        if self.step == 0:
            return
        self._by_main(self._write_model)  # perhaps of an older checkpoint, or of one that is damaged
        validated = any(r["step"] == self.step and "validation_loss" in r for r in self.folder.records())
        sampled = self._grid_path().is_file()
        validated, sampled = self.processes.from_main((validated, sampled))
        if not validated and self._is_due(self.config.validate_every):
            self._validate(stop)
        if not sampled and self._is_due(self.config.sample_every):
            self._sample(stop)

    def _batches(self) -> Generator[tuple[range, dict[str, Any]], None, None]:
        """Endless batches from the current step on, with their positions in the data's global sequence."""
        config = self.config
        loading: dict[str, Any] = {
            "num_workers": config.num_workers,
            "pin_memory": self.device.type == "cuda",
            "worker_init_fn": outlive_first_signal if config.num_workers else None,
        }
        # positions are counted on where the data has none of its own
        num_images = 1 if isinstance(self.data, StreamDataset) else len(self.data)
        sampler = EpochSampler(
            num_images,
            config.batch_size,
            seed=config.seed,
            # what was seen stays seen, also if the number of processes has changed
            start_batch=math.ceil(self.images_seen / (config.batch_size * self.accelerator.num_processes)),
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        # Not prepared by accelerate: the data does the sharding, and accelerate would reshuffle after a resumption.
        if isinstance(self.data, StreamDataset):
            self.data.rank, self.data.world_size = self.processes.rank, self.processes.count
            self.data.start = self.images_seen
            loader = DataLoader(self.data, batch_size=config.batch_size, **loading)
        else:
            loader = DataLoader(self.data, batch_sampler=sampler, **loading)  # type: ignore[arg-type]
        try:
            for batch_number, batch in enumerate(loader, sampler.start_batch):
                yield sampler.positions(batch_number), batch
        except InputError as error:
            # from a worker it comes with a traceback in its text, the message in the last line
            raise InputError(
                str(error).strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: ")
            ) from error

    def _take_step(self, batches: Iterator[tuple[range, dict[str, Any]]]) -> tuple[Tensor, Tensor]:
        """One update of the weights; its mean loss and the norm of its gradient."""
        config, accelerator = self.config, self.accelerator
        per_image: list[tuple[Tensor, Tensor, Tensor]] = []  # index, timestep, loss
        unreadable: list[int] = []
        gradient_norm = torch.zeros(())
        for part in range(config.gradient_accumulation_steps):
            positions, batch = next(batches)
            clean = batch["image"].to(self.device)
            drawn = training_noise(config.seed, positions, clean.shape[1:], config.num_train_timesteps)
            noise, timesteps = (t.to(self.device) for t in drawn)
            labels = batch["label"].to(self.device) if config.class_conditional else None
            seed_dropout(config.seed, self.step, part, accelerator.process_index)
            with accelerator.accumulate(self.network):
                with accelerator.autocast():
                    loss = self.task.loss(self.network, clean, noise, timesteps, labels)
                per_image.append((batch["index"], timesteps, loss.detach()))
                unreadable += batch["index"][batch["unreadable"]].tolist()
                accelerator.backward(loss.mean())
                if accelerator.sync_gradients:
                    limit = math.inf if config.gradient_clip is None else config.gradient_clip
                    gradient_norm = accelerator.clip_grad_norm_(self.network.parameters(), limit)
                    self._update(bool(torch.isfinite(gradient_norm)), per_image)
        self._note_unreadable(unreadable)
        return torch.stack([loss.mean() for _, _, loss in per_image]).mean(), gradient_norm

    def _note_unreadable(self, indices: list[int]) -> None:
        """Count images that turned out unreadable; stop, in all processes, above the limit."""
        new = sorted(set(indices) - self.unreadable)
        if not any(count for (count,) in self.processes.gather_numbers([len(new)])):
            return
        new = sorted(set(self.processes.gather(new)))
        self.unreadable |= set(new)
        names = [self.data.name_of(index) for index in new]
        if self.main:
            self.folder.record(step=self.step + 1, unreadable=True, images=names)
        config, num_images = self.config, self.data.report.num_images
        limit = 0.0 if config.on_bad_image == "error" else config.max_bad_images
        if config.on_bad_image == "error" or too_many_bad(len(self.unreadable), num_images, limit):
            raise InputError(
                f"{len(self.unreadable)} of {num_images} images can no longer be read ({', '.join(names[:3])}); put "
                "them back, or raise max_bad_images, and go on with --resume; the last checkpoint is good"
            )

    def _update(self, finite: bool, per_image: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Change the weights by a finite gradient; leave them alone otherwise, and give up after too many of those.

        The norm is of the gradient summed over all processes, so that all of them decide alike.
        """
        # float16's loss scaler expects an overflow now and then, must see it to back off, and then skips the update
        if finite or self.config.mixed_precision == "fp16":
            self.optimizer.step()
        if finite:
            self.lr_scheduler.step()
            if self.ema is not None:
                self.ema.step(self.model.parameters())
        self.optimizer.zero_grad()
        self.non_finite = 0 if finite else self.non_finite + 1
        if not finite:
            self._tell_non_finite(per_image)
        if self.non_finite >= self.config.max_non_finite_steps:
            raise TrainingDiverged(
                f"the gradient was not finite in {self.non_finite} steps in a row, up to step {self.step + 1}; look at "
                "the images that metrics.jsonl names, or start a new run with a smaller --learning-rate; the last "
                "checkpoint is good"
            )

    def _tell_non_finite(self, per_image: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Name the images, of all processes, whose loss is not finite; all images of the step if each one's is."""
        rows = [row for part in per_image for row in zip(*(t.tolist() for t in part), strict=True)]
        rows = self.processes.gather(rows)
        rows = [row for row in rows if not math.isfinite(row[2])] or rows
        names = [self.data.name_of(index) for index, _, _ in rows]
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        self.say(f"step {self.step + 1}: gradient not finite, update left out ({shown})")
        if self.main:
            # under the number that the step's other records have, so that a resumption drops it with them
            self.folder.record(step=self.step + 1, non_finite=True, images=names, timesteps=[row[1] for row in rows])

    def _mean_loss(self) -> float:
        """Over the steps since the last record, where it is finite, and over all processes."""
        losses = torch.stack(self.losses)
        mean = losses[losses.isfinite()].mean()  # NaN if none is
        return float(self.accelerator.gather(mean[None]).nanmean())

    def _record(self, **values: Any) -> None:
        if not self.main:
            return
        values = {"learning_rate": self.lr_scheduler.get_last_lr()[0], **values}
        self.folder.record(step=self.step, images_seen=self.images_seen, seconds=round(self._seconds(), 3), **values)
        if self.config.logger != "none":
            self.accelerator.log(values, step=self.step)

    def _seconds(self) -> float:
        """Spent on this run, also before it was resumed."""
        return self.seconds_before + time.perf_counter() - self.started

    def _validate(self, stop: StopRequest) -> None:
        """Loss of the averaged weights on the held-out images, by all processes; given up if a signal comes."""
        if self.held_out is None:
            return
        config = self.config
        try:
            with averaged_weights(self.model, self.ema):
                losses = validation_loss(
                    self.model,
                    self.task.scheduler,
                    self.held_out,
                    seed=config.seed,
                    with_labels=config.class_conditional,
                    device=self.device,
                    processes=self.processes,
                    stop=stop,
                    error=self.task.error,
                    is_restoration=isinstance(self.task, RestorationTask),
                )
        except Stopped as stopped:
            self.stopped_by = stopped.signal
            return
        self.validation_loss = losses["validation_loss"]
        self._record(**losses)

    def _sample(self, stop: StopRequest) -> None:
        """A picture from the averaged weights, by all processes; none if a signal comes while it is made."""
        classes = self.data.num_classes if self.config.class_conditional else None
        try:
            with averaged_weights(self.model, self.ema):
                grid = self.task.grid(self.model, self.held_out or self.data, classes, self.processes, stop)
        except Stopped as stopped:
            self.stopped_by = stopped.signal
            return
        self._by_main(lambda: write_png(grid, self._grid_path()))

    def _grid_path(self) -> Path:
        return self.folder.samples / f"step-{self.step:08d}.png"

    def _save(self) -> None:
        """Checkpoint and model, by the main process."""
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):  # the same in all processes
            raise TrainingDiverged(
                f"the weights are not finite after step {self.step}, and are not saved; the last checkpoint is good; "
                "start a new run with a smaller --learning-rate"
            )
        # the mean of all processes: each takes it from here when it resumes
        losses = self.accelerator.reduce(torch.stack(self.losses), "mean").tolist() if self.losses else []

        def write() -> None:
            self.folder.sync_records()  # a checkpoint without the records before it would be none to go on from exactly
            tensors, state = self.snapshot.take()
            state |= {
                "step": self.step,
                "images_seen": self.images_seen,
                "seconds": self._seconds(),
                "num_processes": self.accelerator.num_processes,
                "losses_since_record": losses,
                "non_finite": self.non_finite,
                "unreadable": sorted(self.unreadable),
            }
            checkpoints.save_checkpoint(self.folder.checkpoints, self.step, tensors, state)
            self._write_model()
            checkpoints.remove_old(self.folder.checkpoints, self.step, self.config.keep_checkpoints)

        self._by_main(write)

    def _write_model(self) -> None:
        """What can be used, with the averaged weights; by the main process."""
        with averaged_weights(self.model, self.ema):
            replace_folder(self.folder.model, self.task.pipeline(self.model).save_pretrained)

    def _restore(self) -> None:
        """Take everything from the newest whole checkpoint. Every process reads it for itself."""
        path = checkpoints.latest_valid(self.folder.checkpoints)
        if path is None:
            self.say("no checkpoint yet: starting from the beginning")
            self._by_main(lambda: self.folder.cut_records(0))
            return
        tensors, state = checkpoints.load_checkpoint(path)
        try:
            self.snapshot.restore(tensors, state)
            self.step = state["step"]
            self.images_seen = state["images_seen"]
            self.seconds_before = state.get("seconds", 0.0)
            self.non_finite = state.get("non_finite", 0)
            self.unreadable = set(state.get("unreadable", ()))
            self.losses = [torch.tensor(loss, device=self.device) for loss in state["losses_since_record"]]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path / 'state.json'} is not of a run of this version ({error}); remove {path}"
            ) from error
        if state["num_processes"] != self.accelerator.num_processes:
            self.say(
                f"this run was on {state['num_processes']} processes and is now on {self.accelerator.num_processes}: "
                f"it goes on in the data where it was, with {self.images_per_step} images per step, but not bit for bit"
            )
        self._by_main(lambda: self.folder.cut_records(self.step))
        self.validation_loss = self.processes.from_main(self.folder.last("validation_loss"))
        if isinstance(self.data, StreamDataset):
            self.say(f"the data is a stream: its resumption is {RESUME}")
        self.say(f"resumed from {path.name}")

    def _report(self, result: TrainResult) -> None:
        report = self.data.report
        has_plot = plot_losses(self.folder.records(), self.folder.path / "loss.png")
        facts = {
            "preset": self.config.start_from or self.config.preset,
            "quantization_aware": self.config.quantization_aware,
            "model": type(self.model).__name__,
            "data": self.config.data,
            "num_images": report.num_images,
            "image_size": report.image_size,
            "channels": report.channels,
            "num_parameters": result.num_parameters,
            "step": result.steps,
            "images_seen": result.images_seen,
            "seconds": self._seconds(),
            "images_per_second": result.images_per_second,
            "device": str(self.device),
            "loss": result.loss,
            "validation_loss": result.validation_loss,
            "samples": Path("samples", self._grid_path().name).as_posix(),
            "has_plot": has_plot,
            "run": self.folder.path.as_posix(),
            "usage": self.task.usage(self.folder.path.as_posix()),
        }
        write_report(self.folder.report, facts)


def _make_accelerator(config: TrainConfig) -> Accelerator:
    """Devices, processes and precision.

    Raises:
        InputError: for what this machine does not have.
    """
    if config.logger != "none" and importlib.util.find_spec(config.logger) is None:
        raise InputError(
            f"logger={config.logger} needs the package {config.logger}: pip install 'continuous-unet[{config.logger}]'"
        )
    for strategy in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if os.environ.get(f"ACCELERATE_USE_{strategy}", "false").lower() in ("1", "true"):
            raise InputError(
                f"accelerate is configured for {strategy}, which splits the weights, and checkpoints here hold them "
                "whole; use several processes with whole weights (accelerate launch --multi_gpu, or torchrun)"
            )
    # accelerate keeps its settings for the life of the process; another run in it may want others
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=None if config.logger == "none" else config.logger,
        project_dir=config.output,
    )
    found = accelerator.device.type
    if config.device not in (None, found):
        raise InputError(f"device={config.device} is not to be had here; leave --device out to use {found}")
    if config.mixed_precision == "fp16" and found == "cpu":
        raise InputError("mixed_precision=fp16 needs a GPU; on the CPU use bf16, or no")
    return accelerator
