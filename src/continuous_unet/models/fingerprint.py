"""A short name of a model's weights, by which files can say which weights they belong to."""

import hashlib

import torch
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """Returns 32 hexadecimal digits that depend on every weight of a model, and on its name, but not on the device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
