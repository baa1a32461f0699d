"""The validation loss: the same images, noise and timesteps each time, so that only the weights make a difference."""

from typing import Any

import torch
from torch import Tensor

from continuous_unet.data import ImageDataset
from continuous_unet.processes import Processes
from continuous_unet.randomness import derive_seed
from continuous_unet.signals import StopRequest
from continuous_unet.training.objective import diffusion_loss

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
) -> dict[str, float]:
    """Mean squared error of the prediction on held-out images, without min-SNR weights.

    Args:
        model: a U-Net, in evaluation mode.
        scheduler: the training scheduler.
        dataset: held-out images; not empty.
        seed: of the run.
        with_labels: give the model the images' classes.
        device: where the model is.
        processes: that share the images, batch by batch; this one alone if None.
        stop: asked before each batch.

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
        noise = torch.stack([_noise(clean[0], seed, item["index"]) for item in items])
        # multiples of the golden ratio: however few the images, all parts of the range get their share
        times = torch.tensor([int(i * GOLDEN_RATIO % 1 * num_timesteps) for i in numbers])
        labels = torch.tensor([item["label"] for item in items], device=device) if with_labels else None
        loss = diffusion_loss(model, scheduler, clean.to(device), noise.to(device), times.to(device), labels)
        if ours:
            own.append((start, loss.tolist(), times.tolist()))
    batches = sorted(processes.gather(own))
    losses = [loss for _, batch, _ in batches for loss in batch]
    timesteps = [t for _, _, batch in batches for t in batch]
    result = {"validation_loss": sum(losses) / len(losses)}
    for quarter in range(4):
        here = [loss for loss, t in zip(losses, timesteps, strict=True) if t * 4 // num_timesteps == quarter]
        if here:
            result[f"validation_loss_quarter_{quarter + 1}"] = sum(here) / len(here)
    return result


def _noise(like: Tensor, seed: int, index: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed("validation noise", seed, index))
    return torch.randn(like.shape, generator=generator)
