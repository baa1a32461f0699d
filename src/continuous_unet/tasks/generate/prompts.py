"""Prompts of a call of the sampling pipeline, turned into what the model attends to."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.tasks.facts import TextFacts
from continuous_unet.text.encoders import TextEncoder

logger = logging.getLogger(__name__)
Prompt = str | Sequence[str] | None
"""One prompt for all images, or one for each; None for any image."""
Conditions = dict[str, Tensor]


def text_conditions(
    unet: Any, facts: TextFacts | None, prompt: Prompt, negative_prompt: Prompt, batch_size: int
) -> tuple[Conditions, Conditions]:
    """Returns what a call asks for in words, and what guidance leads away from: arguments of the model's call.

    They have one row if it is for all images, and one for each otherwise. The second is empty for models that do not
    know the empty prompt, if there is no negative one. A warning names each prompt that is too long, once.

    Raises:
        InputError: for prompts that do not fit the model or the batch.
    """
    reads_text = getattr(unet.config, "cross_attention_dim", None) is not None
    if facts is None or not reads_text:
        if prompt is not None or negative_prompt is not None:
            raise InputError(
                "a prompt was given, but this model was trained without text; leave it out, or train a model with "
                "--text-encoder built-in"
            )
        if reads_text:
            raise InputError("the model reads text, and continuous_unet.json, which says how, is missing beside it")
        return {}, {}
    if prompt is None and not facts.empty_prompt:
        raise InputError("this model was trained with captions, none of which was dropped: give a prompt")
    encoder = facts.make_encoder()
    asked = encode(encoder, _each("prompt", prompt, batch_size), unet)
    if negative_prompt is None and not facts.empty_prompt:
        return asked, {}
    return asked, encode(encoder, _each("negative_prompt", negative_prompt, batch_size), unet)


def encode(encoder: TextEncoder, prompts: Sequence[str], unet: Any) -> Conditions:
    """Returns prompts as arguments of the model's call, and warns of those that are too long."""
    for prompt in dict.fromkeys(prompts):
        _warn_if_cut(encoder, prompt)
    return encoder.encode(prompts, unet)


def _each(name: str, prompt: Prompt, batch_size: int) -> list[str]:
    """Returns one prompt, or one for each image."""
    prompts = [prompt or ""] if prompt is None or isinstance(prompt, str) else list(prompt)
    if not all(isinstance(text, str) for text in prompts):
        raise InputError(f"{name} must be a text, or one for each image")
    if len(prompts) not in (1, batch_size):
        raise InputError(
            f"{len(prompts)} texts were given as {name}; expected one, or {batch_size}, the number of images"
        )
    return prompts[:1] if len(set(prompts)) == 1 else prompts


@lru_cache(maxsize=1000)  # so that each is named once, and not in each batch
def _warn_if_cut(encoder: TextEncoder, prompt: str) -> None:
    if encoder.is_cut(prompt):
        shown = prompt if len(prompt) <= 60 else prompt[:57] + "…"
        logger.warning("the prompt %r is longer than the %d tokens of the model, and is cut", shown, encoder.max_length)
