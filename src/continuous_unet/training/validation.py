"""Validation with the same images, noise and times each time, so that only the weights make a difference."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import default_collate

from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import StopRequest
from continuous_unet.data.loading import HeldOut
from continuous_unet.diffusion.draws import Stream, normal
from continuous_unet.tasks.base import StepContext, Task, mean_psnr
from continuous_unet.tasks.network import Network

BATCH = 64
ROUND = 2**32
"""In each further round, an image takes the noise of the position that is this far after its own."""


class Errors(NamedTuple):
    """What was measured of N held-out images in some rounds: tensors `(rounds * N,)`, in the order of the rounds."""

    task: Tensor
    """The error that the task defines, float64."""
    degraded: Tensor | None
    """The error of the degraded images themselves, float64; None unless the task restores images."""
    times: Tensor
    """The time at which each was measured."""


def validate(
    task: Task,
    model: Network,
    dataset: HeldOut,
    *,
    seed: int,
    processes: Processes | None = None,
    stop: StopRequest | None = None,
    teacher: Network | None = None,
) -> dict[str, float]:
    """Measures a task's error on held-out images, each with noise of its own and at one time of an even spread.

    Args:
        task: defines the error, and the metrics that are recorded.
        model: a U-Net, in evaluation mode.
        dataset: held-out images; not empty.
        seed: seed of the noise.
        processes: the processes that share the images, batch by batch; this one alone if None.
        stop: asked before each batch.
        teacher: the model that the task learns from, if it has one.

    Returns:
        The task's `metrics`; if the task restores images, `degraded_loss` and `degraded_psnr`, the mean squared error
        and the PSNR of the images before they are restored; and `validation_loss_quarter_1` (least noise) to `_4` for
        the quarters of the times that some image fell into. They are the same in every process.

    Raises:
        Stopped: if a process is asked to stop.
    """
    errors = measure_errors(task, model, dataset, seed=seed, processes=processes, stop=stop, teacher=teacher)
    metrics = task.metrics(errors.task)
    if errors.degraded is not None:
        metrics |= {"degraded_loss": float(errors.degraded.mean()), "degraded_psnr": mean_psnr(errors.degraded)}
    if not task.timed:
        return metrics
    quarters = (errors.times * 4 // task.process.num_train_timesteps).long() + 1
    for k in quarters.unique().tolist():
        metrics[f"validation_loss_quarter_{k}"] = float(errors.task[quarters == k].mean())
    return metrics


@torch.no_grad()
def measure_errors(
    task: Task,
    model: Network,
    dataset: HeldOut,
    *,
    seed: int,
    rounds: int = 1,
    processes: Processes | None = None,
    stop: StopRequest | None = None,
    teacher: Network | None = None,
) -> Errors:
    """Returns a task's error for each held-out image, and the time at which it was measured.

    The arguments are those of `validate`. Each image is measured `rounds` times, with other noise and at other times.

    Raises:
        Stopped: if a process is asked to stop.
    """
    processes, stop = processes or Processes(), stop or StopRequest()
    device = model.device
    own: list[tuple[int, list[tuple[float, ...]]]] = []
    total = rounds * len(dataset)
    for start, ours in processes.rounds(range(0, total, BATCH)):
        processes.check(stop)
        numbers = range(start, min(start + BATCH, total))
        items = [dataset[number % len(dataset)] for number in numbers]
        rest = [{key: value for key, value in item.items() if key != "image"} for item in items]
        clean: Tensor = torch.stack([item["image"] for item in items]).to(device)
        pairs = zip(items, numbers, strict=True)
        positions = [item["index"] + number // len(dataset) * ROUND for item, number in pairs]
        step = StepContext(
            model=model,
            process=task.process,
            clean=clean,
            noise=normal(seed, Stream.VALIDATION, positions, clean.shape[1:], device),
            times=task.process.spread_times(numbers).to(device),
            conditions=task.conditions(default_collate(rest), device),
            teacher=teacher,
        )
        error, degraded = task.error_and_degraded(step)
        columns = [step.times, error] + ([] if degraded is None else [degraded])
        if ours:
            own.append((start, list(zip(*map(Tensor.tolist, columns), strict=True))))
    rows = [row for _, batch in sorted(processes.gather(own)) for row in batch]
    times, *columns_of_errors = zip(*rows, strict=True)
    errors = [torch.tensor(column, dtype=torch.float64) for column in columns_of_errors]
    return Errors(errors[0], errors[1] if len(errors) > 1 else None, torch.tensor(times))
