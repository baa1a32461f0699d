"""The validation loss: the same images, noise and timesteps each time, so that only the weights make a difference."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import StopRequest
from continuous_unet.data import ImageDataset
from continuous_unet.diffusion.draws import index_noise
from continuous_unet.diffusion.losses import diffusion_loss

BATCH = 64
GOLDEN_RATIO = 0.6180339887498949


@torch.no_grad()
def validation_loss(
    model: Any,
    scheduler: Any,
    dataset: ImageDataset,
    *,
    seed: int,
    with_labels: bool,
    device: torch.device,
    processes: Processes | None = None,
    stop: StopRequest | None = None,
    error: Callable[..., Tensor] | None = None,
    is_restoration: bool = False,
) -> dict[str, float]:
    """Mean squared error on held-out images: of the prediction, without min-SNR weights, or of what a task says.

    Args:
        model: a U-Net, in evaluation mode.
        scheduler: the training scheduler.
        dataset: held-out images; not empty.
        seed: of the run.
        with_labels: give the model the images' classes.
        device: where the model is.
        processes: that share the images, batch by batch; this one alone if None.
        stop: asked before each batch.
        error: `TrainingTask.error`; the squared error of the diffusion model's prediction if None.
        is_restoration: the error is of restored images in [-1, 1]; tell the mean PSNR (dB) too, as `validation_psnr`.

    Returns:
        `validation_loss`, and `validation_loss_quarter_1` (least noise) to `_4` for the quarters of the timesteps that
        some image fell into; the same in every process.

    Raises:
        Stopped: if a process is asked to stop.
    """
    processes, stop = processes or Processes(), stop or StopRequest()
    num_timesteps = scheduler.config.num_train_timesteps
    own: list[tuple[int, list[float], list[int]]] = []
    for start, ours in processes.rounds(range(0, len(dataset), BATCH)):
        processes.check(stop)
        numbers = range(start, min(start + BATCH, len(dataset)))
        items = [dataset[i] for i in numbers]
        clean = torch.stack([item["image"] for item in items])
        noise = torch.stack([index_noise(clean[0], seed, item["index"]) for item in items])
        # multiples of the golden ratio: however few the images, all parts of the range get their share
        times = torch.tensor([int(i * GOLDEN_RATIO % 1 * num_timesteps) for i in numbers])
        labels = torch.tensor([item["label"] for item in items], device=device) if with_labels else None
        inputs = clean.to(device), noise.to(device), times.to(device), labels
        loss = diffusion_loss(model, scheduler, *inputs) if error is None else error(model, *inputs)
        if ours:
            own.append((start, loss.tolist(), times.tolist()))
    batches = sorted(processes.gather(own))
    losses = [loss for _, batch, _ in batches for loss in batch]
    timesteps = [t for _, _, batch in batches for t in batch]
    result = {"validation_loss": sum(losses) / len(losses)}
    if is_restoration:
        result["validation_psnr"] = sum(10 * math.log10(4 / max(loss, 1e-12)) for loss in losses) / len(losses)
    for quarter in range(4):
        here = [loss for loss, t in zip(losses, timesteps, strict=True) if t * 4 // num_timesteps == quarter]
        if here:
            result[f"validation_loss_quarter_{quarter + 1}"] = sum(here) / len(here)
    return result
