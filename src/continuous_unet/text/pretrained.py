"""Text encoders of the library transformers, by name or path. They are frozen, and not saved with a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.packages import import_extra
from continuous_unet.text.encoders import TextEncoder, Tokens

LONGEST = 128
"""Largest number of tokens of a text; T5 would take any number, and each costs time."""
_CLASSES = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel"}
_CLASSES |= dict.fromkeys(("t5", "mt5", "umt5"), "T5EncoderModel")
"""Classes that hold the encoder alone, by `model_type`; `AutoModel` for all others."""


class PretrainedEncoder(TextEncoder):
    """The last hidden states of an encoder such as CLIP, T5 or BERT.

    Only safetensors are read, and no code of the encoder's folder is run.

    Args:
        reference: what transformers takes as name or path.
        max_length: number of tokens of a text; if None, the most that the encoder takes, but at most 128.

    Raises:
        InputError: if transformers is missing, or the encoder cannot be loaded.
    """

    def __init__(self, reference: str, max_length: int | None = None) -> None:
        transformers: Any = import_extra("transformers", f"the text encoder {reference} needs transformers", "text")
        self.reference = reference
        options = {"local_files_only": Path(reference).exists(), "trust_remote_code": False}
        try:
            config = transformers.AutoConfig.from_pretrained(reference, **options)
            kind = getattr(transformers, _CLASSES.get(config.model_type, "AutoModel"))
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(reference, **options)
            del options["trust_remote_code"]  # classes other than AutoModel do not know it; its default is False
            self.model = kind.from_pretrained(reference, use_safetensors=True, **options)
        except Exception as error:  # whatever the files of someone else make it raise
            raise InputError(
                f"the text encoder {reference} cannot be loaded ({first_line(error)}); expected built-in, or the name "
                "or path of an encoder of transformers with a tokenizer and safetensors"
            ) from error
        self.model = self.model.float().eval().requires_grad_(False)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.width = int(self.model.config.hidden_size)
        positions = getattr(self.model.config, "max_position_embeddings", LONGEST)
        self.max_length = max_length or min(LONGEST, positions, self.tokenizer.model_max_length)

    @classmethod
    def for_captions(cls, reference: str, captions: Sequence[str]) -> "PretrainedEncoder":
        """Returns an encoder for captions: for their longest, rounded up to a multiple of four tokens."""
        encoder = cls(reference)
        lengths = map(len, encoder.tokenizer(list(dict.fromkeys(captions)))["input_ids"])
        encoder.max_length = min(encoder.max_length, -(-max(lengths) // 4) * 4)
        return encoder

    def tokenise(self, prompts: Sequence[str]) -> Tokens:
        found = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return Tokens(found["input_ids"].long(), found["attention_mask"].bool())

    def is_cut(self, prompt: str) -> bool:
        return len(self.tokenizer(prompt)["input_ids"]) > self.max_length

    @torch.no_grad()
    def arguments(self, tokens: Tokens) -> dict[str, Tensor]:
        ids, mask = tokens
        states = self.model.to(ids.device)(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return {"encoder_hidden_states": states.float(), "encoder_attention_mask": mask}

    def encode(self, prompts: Sequence[str], unet: Any) -> dict[str, Tensor]:
        return self.arguments(Tokens(*(part.to(unet.device) for part in self.tokenise(prompts))))

    def model_arguments(self) -> dict[str, Any]:
        return {"cross_attention_dim": self.width}

    def describe(self) -> dict[str, Any]:
        return {"encoder": self.reference, "max_length": self.max_length}
