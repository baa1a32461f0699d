"""Attention of a feature map to itself and to a text, by diffusers' `Attention`, for maps of any dimension."""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from continuous_unet.models.conditioning import Conditioning, shared
from continuous_unet.models.config import UNetConfig


def self_attention(config: UNetConfig, width: int, dim: int) -> Attention:
    """Returns the self-attention of a level of that width; it is the same for maps of any dimension."""
    return Attention(**_settings(config, width), _from_deprecated_attn_block=True)


def cross_attention(config: UNetConfig, width: int) -> Attention:
    """Returns the cross-attention of a level of that width, which starts as the identity."""
    processor: Any = TextProcessor()
    attention = Attention(
        **_settings(config, width), cross_attention_dim=config.cross_attention_dim, processor=processor
    )
    output: Any = attention.to_out[0]
    nn.init.zeros_(output.weight)
    nn.init.zeros_(output.bias)
    return attention


def _settings(config: UNetConfig, width: int) -> dict[str, Any]:
    head_dim = config.attention_head_dim or width
    return {
        "query_dim": width,
        "heads": width // head_dim,
        "dim_head": head_dim,
        "norm_num_groups": config.norm_num_groups,
        "eps": config.norm_eps,
        "residual_connection": True,
        "bias": True,
        "upcast_softmax": True,
    }


def attend(attention: nn.Module, x: Tensor) -> Tensor:
    """Returns a map `(B, C, *size)` after self-attention."""
    # diffusers' attention takes maps of two dimensions; the positions are a sequence to it anyway
    return attention(x) if x.ndim == 4 else attention(x.flatten(2).unsqueeze(-1)).view(x.shape)


def attend_to_text(attention: nn.Module, x: Tensor, conditioning: Conditioning) -> Tensor:
    """Returns a map `(B, C, *size)` after cross-attention to the text of `conditioning`."""
    known = None if conditioning.keys_values is None else conditioning.keys_values.get(attention)
    text, mask = conditioning.encoder_hidden_states, conditioning.encoder_attention_mask
    return attention(x, text, attention_mask=mask, keys_values=known)


class TextProcessor:
    """Computes cross-attention as diffusers does, for maps of any dimension, perhaps from keys and values of before."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        keys_values: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Returns the map `(B, C, *size)` plus what attention adds to it.

        Args:
            attn: the layers.
            hidden_states: the map `(B, C, *size)`.
            encoder_hidden_states: the text `(B, L, D)`.
            attention_mask: which of its tokens count, bool `(B, L)`.
            keys_values: the result of `text_keys_values`, perhaps for fewer rows that share the batch.
        """
        batch = hidden_states.shape[0]
        if keys_values is None:
            keys_values = text_keys_values(attn, encoder_hidden_states)
        key, value = (shared(part, batch).expand(batch, -1, -1, -1) for part in keys_values)
        normed = attn.group_norm(hidden_states.flatten(2)).transpose(1, 2)
        query = _by_head(attn, attn.to_q(normed))
        mask = None if attention_mask is None else shared(attention_mask, batch)[:, None, None, :]
        added = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        added = attn.to_out[0](added.transpose(1, 2).flatten(2).to(query.dtype))
        return hidden_states + added.transpose(1, 2).reshape(hidden_states.shape)


def text_keys_values(attention: Any, text: Tensor) -> tuple[Tensor, Tensor]:
    """Returns keys and values `(B, heads, L, C / heads)` of a text `(B, L, D)`."""
    return _by_head(attention, attention.to_k(text)), _by_head(attention, attention.to_v(text))


def _by_head(attention: Any, x: Tensor) -> Tensor:
    return x.unflatten(2, (attention.heads, -1)).transpose(1, 2)


def checked_text(text: Tensor, mask: Tensor | None, batch: int, width: int) -> tuple[Tensor, Tensor | None]:
    """Returns a text `(B, L, D)` and its mask as attention and the mean take them.

    Tokens that do not count become zeros. A text of which none counts is one of zeros, all of which count: attention to
    nothing has no result.

    Raises:
        ValueError: for shapes that do not fit the batch and the width D of the model.
    """
    if text.ndim != 3 or text.shape[0] != batch or text.shape[1] == 0 or text.shape[2] != width:
        raise ValueError(
            f"encoder_hidden_states has shape {tuple(text.shape)}; expected ({batch}, L, {width}): images, tokens, and "
            "the model's cross_attention_dim"
        )
    if mask is None:
        return text, None
    if mask.shape != text.shape[:2]:
        raise ValueError(
            f"encoder_attention_mask has shape {tuple(mask.shape)}; expected {tuple(text.shape[:2])}, one value a token"
        )
    mask = mask.to(torch.bool)
    return text.masked_fill(~mask[:, :, None], 0), mask | ~mask.any(dim=1, keepdim=True)


def mean_of_tokens(text: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the mean `(B, D)` of the tokens that count of a text and mask of `checked_text`."""
    if mask is None:
        return text.mean(dim=1)
    return text.sum(dim=1) / mask.sum(dim=1, keepdim=True)
