"""The choice of a device, its memory, and how to send tensors to it without waiting."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError, first_line

Result = TypeVar("Result")


def pick_device(name: str | None) -> torch.device:
    """Returns the device of that name, or the fastest one that is available if the name is None.

    Raises:
        InputError: if the name is unknown or the device is unavailable.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"the device {name!r} is unavailable ({first_line(error)}); cpu always works") from error
    return device


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor on a device. A GPU copies it when it comes to it: nobody waits."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def on_side_stream(compute: Callable[[], Result]) -> Result:
    """Returns the result of work on another stream of the GPU: libraries choose their algorithms before a capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = compute()
    torch.cuda.current_stream().wait_stream(stream)
    return result


def available_bytes(device: torch.device) -> int:
    """Returns how much memory is free on a device; for the CPU, that which the operating system says is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not everywhere
        return 2**31
