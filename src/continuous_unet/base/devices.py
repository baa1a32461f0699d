"""Where to run."""

import torch

from continuous_unet.base.errors import InputError, first_line


def pick_device(name: str | None) -> torch.device:
    """The device of that name; the best one there is if None.

    Raises:
        InputError: for a name that is no device, or one that is not there.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"the device {name!r} cannot be used ({first_line(error)}); cpu always can") from error
    return device
