"""The built-in text encoder: a small transformer, a part of the U-Net that is trained with it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TextEncoderConfig:
    """The settings of the built-in text encoder.

    Raises:
        ValueError: for settings that do not fit together; the message names them.
    """

    vocabulary_size: int
    max_length: int = 32
    """Number of tokens of a text, padded or cut."""
    width: int = 128
    layers: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"text_encoder_config: {field.name}={value!r} must be an integer of at least 1")
        if self.width % self.heads:
            raise ValueError(f"text_encoder_config: heads={self.heads} does not divide width={self.width}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "TextEncoderConfig":
        """Returns the settings in a mapping, as a saved configuration has them."""
        known = [field.name for field in fields(cls)]
        unknown = [name for name in settings if name not in known]
        if unknown:
            raise ValueError(f"text_encoder_config has the unknown setting {unknown[0]!r}; expected {', '.join(known)}")
        if "vocabulary_size" not in settings:
            raise ValueError("text_encoder_config needs vocabulary_size, the number of its tokens")
        return cls(**settings)


class TextLayer(nn.Module):
    """Self-attention over the tokens and two linear layers, each after a norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Returns states `(B, L, W)`; `mask` `(B, 1, 1, L)` is True at tokens and False at padding."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class TextTransformer(nn.Module):
    """Turns the tokens of `text.subwords` into states that a U-Net attends to."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.settings = config
        self.tokens = nn.Embedding(config.vocabulary_size, config.width)
        self.positions = nn.Parameter(torch.randn(config.max_length, config.width) * 0.2)
        self.layers = nn.ModuleList(TextLayer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        nn.init.normal_(self.tokens.weight, std=0.2)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the states `(B, L, width)` and the mask `(B, L)`, which is False at padding.

        Args:
            input_ids: tokens `(B, L)`, 0 for padding; each text has at least its start.

        Raises:
            ValueError: for more tokens than it was made for.
        """
        longest = self.settings.max_length
        if input_ids.ndim != 2 or not 0 < input_ids.shape[1] <= longest:
            raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}; expected (B, L), L at most {longest}")
        mask = input_ids != 0
        x = self.tokens(input_ids) + self.positions[: input_ids.shape[1]]
        for layer in self.layers:
            x = layer(x, mask[:, None, None, :])
        return self.norm(x), mask
