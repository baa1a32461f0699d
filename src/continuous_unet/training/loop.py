"""The training loop. What it uses has owners: noise, objective, EMA, snapshot, checkpoints, validation, samples…

Nothing random is carried from step to step: noise and timestep of the image at position p of the data's sequence come
from `(seed, p)`, dropout from `(seed, step)`. A run that was killed and resumed computes what it would have computed.
"""

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from continuous_unet.data import EpochSampler, ImageDataset, open_dataset, train_validation_split
from continuous_unet.errors import InputError
from continuous_unet.models.continuous_unet import ContinuousUNet2DModel
from continuous_unet.models.presets import PRESETS
from continuous_unet.randomness import derive_seed
from continuous_unet.tasks.generation import DiffusionSamplingPipeline
from continuous_unet.tasks.images import write_png
from continuous_unet.training import checkpoints
from continuous_unet.training.config import TrainConfig
from continuous_unet.training.ema import averaged_weights, make_ema
from continuous_unet.training.noise import seed_dropout, training_noise
from continuous_unet.training.objective import diffusion_loss
from continuous_unet.training.report import plot_losses, write_report
from continuous_unet.training.run_folder import RunFolder
from continuous_unet.training.samples import sample_grid
from continuous_unet.training.signals import StopRequest, ignore_signals, stop_on_signals
from continuous_unet.training.snapshot import Snapshot
from continuous_unet.training.validation import validation_loss


class TrainingDiverged(RuntimeError):
    """The gradient was not finite for many steps in a row; the last good checkpoint stands."""


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    run: str
    steps: int
    images_seen: int
    loss: float
    """Mean training loss since the record before last."""
    validation_loss: float | None
    seconds: float
    """Of this call, without what was done before a resumption."""
    images_per_second: float
    num_parameters: int
    stopped_by: int | None
    """Number of the signal that ended the run early, if one did."""


def train(config: TrainConfig, resume: bool = False) -> TrainResult:
    """Train a continuous U-Net; write checkpoints, samples, records and a report into `config.output`.

    Args:
        config: all settings.
        resume: go on from the newest whole checkpoint in `config.output`.

    Raises:
        InputError: for settings, data or files that cannot be used.
        TrainingDiverged: after `max_non_finite_steps` steps in a row without a finite gradient.
    """
    config.validate()
    return _Trainer(config, resume).run()


class _Trainer:
    """The parts of a run, made in order; `run` is the loop."""

    def __init__(self, config: TrainConfig, resume: bool) -> None:
        self.config = config
        # accelerate keeps its settings for the life of the process; another run in it may want others
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(
            cpu=config.device == "cpu",
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            log_with=None if config.logger == "none" else config.logger,
            project_dir=config.output,
        )
        self.main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        self.say = tqdm.write if self.main else (lambda *_, **__: None)

        self.data, self.validation = self._open_data()
        self.folder = RunFolder(config.output)
        set_seed(derive_seed("weights", config.seed) % 2**32)
        self.model = self._make_model()  # the bare model; `network` may be wrapped and compiled, and shares its weights
        self.noise_scheduler = DDPMScheduler(
            num_train_timesteps=config.num_train_timesteps,
            beta_schedule=config.noise_schedule,
            prediction_type=config.objective,
        )
        # After everything that can refuse the configuration, so that a refused run leaves no folder behind.
        if self.main:
            facts = {"data": self.data.report.to_dict(), "num_parameters": self.num_parameters}
            self.folder.start(config, resume, facts)
        self.accelerator.wait_for_everyone()

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
        self.ema: EMAModel | None = make_ema(self.model, config.ema_decay) if config.ema else None
        self.snapshot = Snapshot(
            self.model, self.optimizer.optimizer, self.lr_scheduler, self.ema, self.accelerator.scaler
        )

        self.step = 0
        self.losses: list[Tensor] = []
        """Of the steps since the last record."""
        self.non_finite = 0
        self.validation_loss: float | None = None
        if resume:
            self._restore()
        if config.logger != "none":
            self.accelerator.init_trackers("continuous-unet")

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def images_per_step(self) -> int:
        config = self.config
        return config.batch_size * config.gradient_accumulation_steps * self.accelerator.num_processes

    def _open_data(self) -> tuple[ImageDataset, ImageDataset]:
        config = self.config
        dataset = open_dataset(
            config.data,
            image_size=config.image_size,
            channels=config.channels,
            fit=config.fit,
            random_flip=config.random_flip,
            random_crop=config.random_crop,
            seed=config.seed,
            on_bad_image=config.on_bad_image,
            progress=self.main,
        )
        self.say(dataset.report.summary(), file=sys.stderr)
        if config.class_conditional and dataset.num_classes is None:
            raise InputError(f"class_conditional needs data with classes, and {config.data} has none")
        return train_validation_split(dataset, config.num_validation, config.seed)

    def _make_model(self) -> ContinuousUNet2DModel:
        config, report = self.config, self.data.report
        arguments: dict[str, Any] = {
            "sample_size": report.image_size,
            "in_channels": report.channels,
            "out_channels": report.channels,
        }
        if config.class_conditional:
            arguments["num_class_embeds"] = self.data.num_classes
        try:
            model = ContinuousUNet2DModel(**PRESETS[config.preset](**arguments, **config.model_options))
        except (ValueError, TypeError) as error:
            raise InputError(f"the model cannot be made: {error}") from error
        self.say(
            f"{type(model).__name__} ({config.preset}): {model.num_parameters():,} parameters, on {self.device}",
            file=sys.stderr,
        )
        return model

    def run(self) -> TrainResult:
        """Train up to `config.steps`, or until a signal asks to stop."""
        config, accelerator = self.config, self.accelerator
        started, first_step = time.perf_counter(), self.step
        batches = self._batches()
        loss = math.nan
        bar = tqdm(total=config.steps, initial=self.step, desc="training", unit="step", disable=not self.main)
        self.network.train()

        with stop_on_signals() as stop, bar:
            record_started, record_step = started, self.step
            while self.step < config.steps:
                step_loss, gradient_norm = self._take_step(batches)
                self.losses.append(step_loss)
                self.step += 1
                bar.update()

                if self.step % config.log_every == 0 or self.step == config.steps:
                    loss = float(accelerator.gather(torch.stack(self.losses).nanmean()[None]).nanmean())
                    self.losses.clear()
                    now = time.perf_counter()
                    speed = (self.step - record_step) * self.images_per_step / (now - record_started)
                    record_started, record_step = now, self.step
                    bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
                    self._record(loss=loss, gradient_norm=float(gradient_norm), images_per_second=round(speed, 2))
                stopping = self._anyone(stop.signal is not None)
                last = self.step == config.steps
                if len(self.validation) and (self.step % config.validate_every == 0 or last):
                    self._validate()
                if not stopping and (self.step % config.sample_every == 0 or last):
                    self._sample(stop)
                if self.step % config.checkpoint_every == 0 or last or stopping:
                    self._save()
                if stopping:
                    break

        seconds = time.perf_counter() - started
        images = (self.step - first_step) * self.images_per_step
        result = TrainResult(
            run=str(self.folder.path),
            steps=self.step,
            images_seen=self.step * self.images_per_step,
            loss=float(torch.stack(self.losses).nanmean()) if self.losses else loss,
            validation_loss=self.validation_loss,
            seconds=seconds,
            images_per_second=images / seconds,
            num_parameters=self.num_parameters,
            stopped_by=stop.signal if self.step < config.steps else None,
        )
        if result.stopped_by is not None:
            self.say(f"stopped at step {self.step}; go on with --resume", file=sys.stderr)
        elif self.main:
            self._report(result)
        accelerator.end_training()
        return result

    def _batches(self) -> Any:
        """Endless batches from the current step on, with their positions in the data's global sequence."""
        config = self.config
        sampler = EpochSampler(
            len(self.data),
            config.batch_size,
            seed=config.seed,
            start_batch=self.step * config.gradient_accumulation_steps,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        # Not prepared by accelerate: the sampler does the sharding, and accelerate would reshuffle after a resumption.
        loader = DataLoader(
            self.data,
            batch_sampler=sampler,  # type: ignore[arg-type]
            num_workers=config.num_workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=ignore_signals if config.num_workers else None,
        )
        batch_number = sampler.start_batch
        for batch in loader:
            yield sampler.positions(batch_number), batch
            batch_number += 1

    def _take_step(self, batches: Any) -> tuple[Tensor, Tensor]:
        """One update of the weights; its mean loss and the norm of its gradient."""
        config, accelerator = self.config, self.accelerator
        losses = []
        gradient_norm = torch.zeros(())
        bad: list[int] = []
        for part in range(config.gradient_accumulation_steps):
            positions, batch = next(batches)
            clean = batch["image"].to(self.device)
            drawn = training_noise(config.seed, positions, clean.shape[1:], config.num_train_timesteps)
            noise, timesteps = (t.to(self.device) for t in drawn)
            labels = batch["label"].to(self.device) if config.class_conditional else None
            seed_dropout(config.seed, self.step, part, accelerator.process_index)
            with accelerator.accumulate(self.network):
                with accelerator.autocast():
                    loss = diffusion_loss(
                        self.network, self.noise_scheduler, clean, noise, timesteps, labels, config.min_snr_gamma
                    )
                losses.append(loss.detach().mean())
                bad += [int(i) for i, x in zip(batch["index"], loss.detach().isfinite().tolist(), strict=True) if not x]
                accelerator.backward(loss.mean())
                if accelerator.sync_gradients:
                    limit = math.inf if config.gradient_clip is None else config.gradient_clip
                    gradient_norm = accelerator.clip_grad_norm_(self.network.parameters(), limit)
                    finite = bool(torch.isfinite(gradient_norm))
                    # float16's loss scaler expects an overflow now and then, and must see it to back off
                    if finite or config.mixed_precision == "fp16":
                        self.optimizer.step()
                        self.lr_scheduler.step()
                    self.optimizer.zero_grad()
                    self._count_non_finite(finite, bad)
                    if finite and self.ema is not None:
                        self.ema.step(self.model.parameters())
        return torch.stack(losses).mean(), gradient_norm

    def _count_non_finite(self, finite: bool, bad: list[int]) -> None:
        # The norm is of the gradient summed over all processes, so that all of them decide alike.
        self.non_finite = 0 if finite else self.non_finite + 1
        if finite:
            return
        self.say(f"step {self.step}: gradient not finite, update left out (images {bad})", file=sys.stderr)
        if self.main:
            self.folder.record(step=self.step, non_finite=True, images=bad)
        if self.non_finite >= self.config.max_non_finite_steps:
            raise TrainingDiverged(
                f"the gradient was not finite in {self.non_finite} steps in a row, up to step {self.step}; the last "
                "checkpoint is good: resume it with a smaller --learning-rate in a new run, or clip harder"
            )

    def _record(self, **values: Any) -> None:
        if not self.main:
            return
        seen = {"step": self.step, "images_seen": self.step * self.images_per_step}
        lr = self.lr_scheduler.get_last_lr()[0]
        self.folder.record(**seen, learning_rate=lr, **values)
        if self.config.logger != "none":
            self.accelerator.log({"learning_rate": lr, **values}, step=self.step)

    def _anyone(self, flag: bool) -> bool:
        """Whether any process says so; asked at the same place by all."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor([float(flag)], device=self.device)).item() > 0)

    def _validate(self) -> None:
        """Loss of the averaged weights on the held-out images."""
        if not self.main:
            return
        config = self.config
        with averaged_weights(self.model, self.ema):
            losses = validation_loss(
                self.model,
                self.noise_scheduler,
                self.validation,
                seed=config.seed,
                with_labels=config.class_conditional,
                device=self.device,
            )
        self.validation_loss = losses["validation_loss"]
        self._record(**losses)

    def _sample(self, stop: StopRequest) -> None:
        """A grid from the averaged weights; none if a signal comes while it is made."""
        if not self.main:
            return
        config = self.config
        with averaged_weights(self.model, self.ema):
            grid = sample_grid(
                self.model,
                self.noise_scheduler,
                num_images=config.num_samples,
                num_inference_steps=config.sample_steps,
                seed=config.seed,
                num_classes=self.data.num_classes if config.class_conditional else None,
                give_up=lambda: stop.signal is not None,
            )
        if grid is not None:
            write_png(grid, self.folder.samples / f"step-{self.step:08d}.png")

    def _save(self) -> None:
        """Checkpoint and model, by the main process."""
        self.accelerator.wait_for_everyone()
        if self.main:
            tensors, state = self.snapshot.take()
            state |= {
                "step": self.step,
                "images_seen": self.step * self.images_per_step,
                "num_processes": self.accelerator.num_processes,
                "validation_loss": self.validation_loss,
                "losses_since_record": [float(loss) for loss in self.losses],
            }
            checkpoints.save_checkpoint(self.folder.checkpoints, self.step, tensors, state)
            with averaged_weights(self.model, self.ema):
                pipeline = DiffusionSamplingPipeline(self.model, self.noise_scheduler)
                checkpoints.replace_folder(self.folder.model, pipeline.save_pretrained)
            checkpoints.remove_old(self.folder.checkpoints, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> None:
        """Take everything from the newest whole checkpoint. Every process reads it for itself."""
        path = checkpoints.latest_valid(self.folder.checkpoints)
        if path is None:
            self.say("no checkpoint yet: starting from the beginning", file=sys.stderr)
            if self.main:
                self.folder.cut_records(0)
            return
        tensors, state = checkpoints.load_checkpoint(path)
        self.snapshot.restore(tensors, state)
        self.step = state["step"]
        self.validation_loss = state["validation_loss"]
        self.losses = [torch.tensor(loss, device=self.device) for loss in state["losses_since_record"]]
        if state["num_processes"] != self.accelerator.num_processes:
            self.say(
                f"this run was on {state['num_processes']} processes and is now on {self.accelerator.num_processes}: "
                "it goes on, but not bit for bit, and from another place in the data",
                file=sys.stderr,
            )
        if self.main:
            self.folder.cut_records(self.step)
        self.say(f"resumed from {path.name}", file=sys.stderr)

    def _report(self, result: TrainResult) -> None:
        report = self.data.report
        has_plot = plot_losses(self.folder.records(), self.folder.path / "loss.png")
        facts = {
            "preset": self.config.preset,
            "data": self.config.data,
            "num_images": report.num_images,
            "image_size": report.image_size,
            "channels": report.channels,
            "num_parameters": result.num_parameters,
            "step": result.steps,
            "images_seen": result.images_seen,
            "images_per_second": result.images_per_second,
            "device": str(self.device),
            "loss": result.loss,
            "validation_loss": result.validation_loss,
            "samples": Path("samples", f"step-{self.step:08d}.png").as_posix(),
            "has_plot": has_plot,
            "run": self.folder.path.as_posix(),
        }
        write_report(self.folder.path / "report.md", facts)
