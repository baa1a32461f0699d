"""Text encoders: one contract, the built-in encoder, and how the one of a model is found again."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from continuous_unet.text.subwords import SPECIAL, Subwords, learn_vocabulary

BUILT_IN = "built-in"
"""The name of the encoder that is a part of the model."""
LONGEST_LEARNED = 64
"""Largest number of tokens of a text that the built-in encoder is made for; longer captions are cut."""


class Tokens(NamedTuple):
    """The tokens of some texts."""

    input_ids: Tensor
    """Tokens, int64 `(B, L)`."""
    attention_mask: Tensor
    """Which of them count, bool `(B, L)`."""


class TextEncoder(ABC):
    """Makes tokens of prompts, and states `(B, L, width)` of tokens, which a model attends to."""

    reference: str
    """`"built-in"`, or the name or path of an encoder."""
    max_length: int
    """The number L of tokens of each text."""
    width: int

    @abstractmethod
    def tokenise(self, prompts: Sequence[str]) -> Tokens:
        """Returns the tokens of prompts, padded or cut to `max_length`; the empty prompt stands for "anything"."""

    @abstractmethod
    def is_cut(self, prompt: str) -> bool:
        """Returns whether a prompt has more tokens than `max_length`."""

    @abstractmethod
    def arguments(self, tokens: Tokens) -> dict[str, Tensor]:
        """Returns tokens as arguments of the model's call in training."""

    @abstractmethod
    def encode(self, prompts: Sequence[str], unet: Any) -> dict[str, Tensor]:
        """Returns prompts as arguments of the model's call in sampling, computed once.

        Args:
            prompts: texts.
            unet: the model, on the device of the result.
        """

    @abstractmethod
    def model_arguments(self) -> dict[str, Any]:
        """Returns arguments of the constructor of a model that reads the states of this encoder."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Returns what `open_encoder` takes."""


class BuiltInEncoder(TextEncoder):
    """Subwords and a small transformer. The transformer is the submodule `text_encoder` of the model.

    Args:
        vocabulary: as `learn_vocabulary` returns it.
        max_length: number of tokens of a text.
        width: of the transformer.
    """

    reference = BUILT_IN

    def __init__(self, vocabulary: Sequence[str], max_length: int, width: int = 128) -> None:
        self.subwords = Subwords(vocabulary)
        self.max_length = max_length
        self.width = width

    @classmethod
    def learn(cls, captions: Sequence[str], vocabulary_size: int = 1000) -> "BuiltInEncoder":
        """Returns an encoder for captions: their subwords, and their length rounded up to a multiple of four."""
        distinct = list(dict.fromkeys(captions))
        vocabulary = learn_vocabulary(captions, vocabulary_size)
        subwords = Subwords(vocabulary)
        longest = max(len(subwords.tokens(caption)) for caption in distinct) + 2  # start and end
        return cls(vocabulary, min(LONGEST_LEARNED, -(-longest // 4) * 4))

    def tokenise(self, prompts: Sequence[str]) -> Tokens:
        rows = [self.subwords.padded(prompt, self.max_length)[0] for prompt in prompts]
        input_ids = torch.tensor(rows, dtype=torch.long).view(len(rows), self.max_length)
        return Tokens(input_ids, input_ids != 0)

    def is_cut(self, prompt: str) -> bool:
        return self.subwords.padded(prompt, self.max_length)[1]

    def arguments(self, tokens: Tokens) -> dict[str, Tensor]:
        return {"input_ids": tokens.input_ids}

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], unet: Any) -> dict[str, Tensor]:
        states, mask = unet.encode_text(self.tokenise(prompts).input_ids.to(unet.device))
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

    def model_arguments(self) -> dict[str, Any]:
        settings = {"vocabulary_size": len(self.subwords.vocabulary), "max_length": self.max_length}
        return {"cross_attention_dim": self.width, "text_encoder_config": {**settings, "width": self.width}}

    def describe(self) -> dict[str, Any]:
        return {"encoder": BUILT_IN, "max_length": self.max_length, "vocabulary": self.subwords.vocabulary}


def learn_encoder(reference: str, captions: Sequence[str]) -> TextEncoder:
    """Returns the encoder of a new model.

    Args:
        reference: `"built-in"`, or the name or path of an encoder of transformers.
        captions: those that the model is trained with.

    Raises:
        InputError: if it cannot be loaded.
    """
    if reference == BUILT_IN:
        return BuiltInEncoder.learn(captions)
    from continuous_unet.text.pretrained import PretrainedEncoder

    return PretrainedEncoder.for_captions(reference, captions)


@lru_cache(maxsize=4)
def open_encoder(encoder: str, max_length: int, vocabulary: tuple[str, ...] | None = None) -> TextEncoder:
    """Returns the encoder that `TextEncoder.describe` described. The same description gives the same object.

    Raises:
        InputError: if it cannot be loaded.
    """
    if encoder == BUILT_IN:
        return BuiltInEncoder(vocabulary or SPECIAL, max_length)
    from continuous_unet.text.pretrained import PretrainedEncoder

    return PretrainedEncoder(encoder, max_length)
