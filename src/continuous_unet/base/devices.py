"""The choice of a device."""

import torch

from continuous_unet.base.errors import InputError, first_line


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
