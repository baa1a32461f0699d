"""What makes sampling fast on a GPU: half precision, batches that fill it, and evaluations that are CUDA graphs.

None of this is used on a CPU.
"""

from typing import Any

import torch
from torch import Tensor

from continuous_unet.base.devices import available_bytes, on_side_stream
from continuous_unet.base.results import Json

USUAL_BATCH = 64
"""The number of images that are made at a time on a CPU, and on a GPU whose memory is not known."""
LARGEST_BATCH = 512
"""The number of images from which more at a time gain nothing."""
TRIAL = 8
"""The number of images of the evaluation that shows how much memory an image needs."""
TOKENS = 32
"""The length of the text in that evaluation."""
SHARE = 0.5
"""The fraction of the free memory that evaluations may take."""
FEWEST_CAPTURED = 12
"""The number of evaluations from which a CUDA graph pays: to make it costs as much as several of them."""


def usual_dtype(device: torch.device) -> torch.dtype:
    """Returns the precision of the weights for sampling on a device."""
    half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if half else torch.float32


@torch.no_grad()
def fitting_batch(unet: Any, device: torch.device) -> int:
    """Returns how many images to make at a time, by the free memory of a GPU and what some images need.

    Args:
        unet: the U-Net, on the device.
        device: where it is.
    """
    config = unet.config
    size = config.sample_size
    if device.type != "cuda" or size is None:
        return USUAL_BATCH
    sides = (size, size) if isinstance(size, int) else tuple(size)
    sample = torch.zeros(TRIAL, config.in_channels, *sides, device=device, dtype=unet.dtype)
    conditions: Json = {}
    if config.num_class_embeds is not None:
        conditions["class_labels"] = torch.zeros(TRIAL, dtype=torch.long, device=device)
    if config.get("cross_attention_dim") is not None:
        conditions["encoder_hidden_states"] = sample.new_zeros(TRIAL, TOKENS, config.cross_attention_dim)
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        unet(sample, torch.zeros((), device=device), **conditions)
    except ValueError:  # it takes other conditions
        return USUAL_BATCH
    needed = torch.cuda.max_memory_allocated(device) - before
    return batch_within(2 * needed / TRIAL, available_bytes(device))  # guidance evaluates each image twice


def batch_within(bytes_per_image: float, free: int) -> int:
    """Returns the number of images, a power of two, whose evaluation needs at most `SHARE` of the free bytes."""
    batch = 1
    while 2 * batch <= LARGEST_BATCH and 2 * batch * bytes_per_image <= SHARE * free:
        batch *= 2
    return batch


def capture_pays(device: torch.device, evaluations: int) -> bool:
    """Returns whether so many evaluations of a batch on a device are worth a CUDA graph."""
    return device.type == "cuda" and evaluations >= FEWEST_CAPTURED


class CapturedEvaluation:
    """Evaluates a U-Net with the same arguments each time, by a CUDA graph that is made at the first call.

    If there can be none, the U-Net is called as usual.

    Args:
        unet: the U-Net.
        arguments: those of its call besides the sample and the timestep.
    """

    def __init__(self, unet: Any, arguments: Json) -> None:
        self.unet, self.arguments = unet, arguments
        self.graph: torch.cuda.CUDAGraph | None = None
        self.failed = False

    def __call__(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Returns the prediction, which is the caller's."""
        if self.graph is None and not self.failed:
            try:
                self._capture(sample, timestep)
            except Exception:  # whatever a capture does not allow
                self.failed, self.graph = True, None
                torch.cuda.synchronize()
        if self.graph is None:
            return self.unet(sample, timestep, **self.arguments).sample
        self.sample.copy_(sample)
        self.timestep.copy_(timestep)
        self.graph.replay()
        return self.result.clone()

    def _capture(self, sample: Tensor, timestep: Tensor) -> None:
        self.sample, self.timestep = sample.clone(), timestep.clone()
        for _ in range(2):
            on_side_stream(lambda: self.unet(self.sample, self.timestep, **self.arguments))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.result = self.unet(self.sample, self.timestep, **self.arguments).sample
        self.graph = graph
