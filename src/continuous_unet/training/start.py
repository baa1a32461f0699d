"""A saved model to start a run from, in place of a preset's new one."""

from typing import Any

from diffusers import DDPMScheduler

from continuous_unet.base.errors import InputError
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training.config import TrainConfig

_SCHEDULE = {
    "num_train_timesteps": "num_train_timesteps",
    "beta_schedule": "noise_schedule",
    "prediction_type": "objective",
}
"""Of a scheduler's configuration, what a run's configuration says too, and how it calls it."""
_DDPM = ("beta_start", "beta_end", "trained_betas")
"""What it does not say: these are the defaults of diffusers in every run."""


def start_schedule(scheduler: Any) -> dict[str, Any]:
    """The fields of `TrainConfig` that set the diffusion process of a scheduler.

    Raises:
        InputError: for a process that our training loop does not have.
    """
    config, usual = scheduler.config, DDPMScheduler().config
    other = [name for name in _DDPM if config.get(name, usual[name]) != usual[name]]
    if other or not all(name in config for name in _SCHEDULE):
        what = ", ".join(f"{name}={config[name]!r}" for name in other) or type(scheduler).__name__
        raise InputError(f"this model's diffusion process ({what}) is none that `cunet train` has")
    return {ours: config[theirs] for theirs, ours in _SCHEDULE.items()}


def load_start(config: TrainConfig, scheduler: Any, image_size: int, channels: int, num_classes: int | None) -> Any:
    """The U-Net of `config.start_from`, for data of that size, with those classes (None: unconditional).

    `scheduler` is that of the run.

    Raises:
        InputError: if it cannot be loaded, or was made for other images, classes or another diffusion process.
    """
    pipeline = load_pipeline(str(config.start_from))
    own = pipeline.unet.config
    process = start_schedule(scheduler)
    wanted = {
        "images of": (own.sample_size, image_size),
        "channels": (own.in_channels, channels),
        "classes": (own.num_class_embeds, num_classes),
        **{ours: (value, process[ours]) for ours, value in start_schedule(pipeline.scheduler).items()},
    }
    for name, (has, given) in wanted.items():
        if has != given:
            raise InputError(
                f"the model {config.start_from} to start from has {name} {has}, and this run {given}; make them alike"
            )
    return pipeline.unet
