"""The choice of how a run reads its images: from memory, or by worker processes."""

import torch

from continuous_unet.base.errors import InputError
from continuous_unet.base.processes import Processes
from continuous_unet.base.results import Json
from continuous_unet.base.threads import usable_cores
from continuous_unet.data import TrainingData
from continuous_unet.training.config import DataSettings

MOST_WORKERS = 8
"""The largest number of worker processes that is chosen for a run."""


def how_to_load(settings: DataSettings, data: TrainingData, device: torch.device, processes: Processes) -> Json:
    """Returns the arguments `kept` and `num_workers` of `TrainingData.loader`.

    Raises:
        InputError: if the images are to be kept in memory, and cannot be.
    """
    on_gpu = device.type == "cuda"
    wanted = settings.keep_in_memory
    if wanted == "yes" or (wanted == "auto" and on_gpu and not settings.num_workers):
        problem = data.obstacle(device, processes.count)
        if problem is None:
            return {"kept": data.keep(device)}
        if wanted == "yes":
            raise InputError(f"--keep-in-memory yes: {problem}; leave it out")
    if settings.num_workers is not None:
        return {"num_workers": settings.num_workers}
    most = min(usable_cores(), data.most_readers) // processes.count
    return {"num_workers": min(MOST_WORKERS, most) if on_gpu else 0}
