"""A level of the U-Net: its blocks, and the attention between them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from continuous_unet.models.attention import attend, attend_to_text
from continuous_unet.models.blocks import Block
from continuous_unet.models.conditioning import Conditioning
from continuous_unet.models.waves import SpectralMixing


class Stage(nn.Module):
    """The blocks of one level, each followed by self-attention and by cross-attention if the level has them."""

    _gradient_checkpointing_func: Callable[..., Tensor]

    def __init__(self, blocks: list[Block], attentions: list[nn.Module] | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions) if attentions else None
        self.cross_attentions: nn.ModuleList | None = None
        self.gradient_checkpointing = False  # set by ModelMixin.enable_gradient_checkpointing

    def forward(self, x: Tensor, conditioning: Conditioning, num_steps: int | None = None) -> Tensor:
        """Returns features of the shape of `x`, `(B, C, *size)`."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(self._run, x, conditioning, num_steps)
        return self._run(x, conditioning, num_steps)

    def _run(self, x: Tensor, conditioning: Conditioning, num_steps: int | None) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, conditioning.for_fields(), num_steps)
            if self.attentions is not None:
                attention = self.attentions[i]
                mixes = isinstance(attention, SpectralMixing)
                x = attention(x, conditioning) if mixes else attend(attention, x)
            if self.cross_attentions is not None:
                x = attend_to_text(self.cross_attentions[i], x, conditioning)
        return x
