"""What a model can be asked for, in an export: classes, guidance, and the text encoder as a second graph."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import replace_text
from continuous_unet.base.results import Json
from continuous_unet.deploy.formats import load_part_writer
from continuous_unet.deploy.network import LARGEST_TRACED_BATCH, explained
from continuous_unet.deploy.options import TOLERANCES, ExportOptions
from continuous_unet.deploy.parity import check_error, error_of
from continuous_unet.deploy.standalone.runtime import PADDING
from continuous_unet.tasks.facts import Facts

VOCABULARY = "vocabulary.json"
PARITY_TEXTS = 4
"""Number of texts of random tokens that the text encoder is compared on."""


class TextStates(nn.Module):
    """A text encoder as `input_ids -> states`; the mask follows from the tokens."""

    def __init__(self, encoder: nn.Module, length: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.length = length

    def forward(self, input_ids: Tensor) -> Tensor:
        states: Tensor = self.encoder(input_ids)[0]
        return states

    def program(self) -> ExportedProgram:
        """Returns torch's exported program, for up to 63 texts.

        Raises:
            InputError: if it cannot be traced.
        """
        example = torch.ones(2, self.length, dtype=torch.long)
        shapes = {"input_ids": {0: Dim("batch", min=1, max=LARGEST_TRACED_BATCH)}}
        with explained("be exported with its text encoder"), torch.no_grad():
            return torch.export.export(self, (example,), dynamic_shapes=shapes, strict=False)


def describe_conditions(facts: Facts) -> Json:
    """Returns what `export.json` says about the conditions of a model, without its text encoder."""
    known = facts.conditions
    entries: Json = {"classes": known.classes and list(known.classes), "null_class": known.null_class}
    if known.null_class is not None or facts.text is not None:
        entries["guidance_scale"] = known.guidance_scale
    if facts.text is not None and not facts.text.empty_prompt:
        entries["needs_prompt"] = True
    return {name: value for name, value in entries.items() if value is not None}


def check_exportable(unet: Any, facts: Facts, options: ExportOptions) -> None:
    """Checks whether a model with these conditions can be exported as the options say.

    Raises:
        InputError: naming what cannot be.
    """
    if unet.config.get("cross_attention_dim") is None:
        return
    text = facts.text
    if text is None:
        raise InputError(
            "this model reads text, and continuous_unet.json, which says how, is missing beside its model_index.json; "
            "name a run of cunet train, or a model that was saved with this file"
        )
    if options.precision == "int8":
        raise InputError("--precision int8 is not for models that read text; export them in fp16 or fp32")
    if options.web and not has_encoder(unet):
        encoder = text.encoder
        raise InputError(f"--web is not for this model: a page cannot encode its prompts, which needs {encoder}")


def has_encoder(unet: Any) -> bool:
    """Returns whether a U-Net has its own text encoder; others need one of transformers."""
    return unet.config.get("text_encoder_config") is not None


def write_text_encoder(unet: Any, facts: Facts, folder: Path, options: ExportOptions) -> tuple[list[str], Json]:
    """Writes the built-in text encoder and its vocabulary, and compares the file with PyTorch.

    Returns:
        The files, and the entry `text` of the conditions in `export.json`; nothing for a model without one, and for a
        format that holds the network alone.

    Raises:
        InputError: if it cannot be traced.
        ParityError: if the file's error against PyTorch is above the tolerance.
    """
    write, text = load_part_writer(options.format), facts.text
    if text is None or text.vocabulary is None or not has_encoder(unet) or write is None:
        return [], {}
    length, vocabulary = text.max_length, list(text.vocabulary)
    encoder = nn.Module.float(copy.deepcopy(unet.text_encoder).to("cpu")).eval().requires_grad_(False)
    states = TextStates(encoder, length)
    written = write(states.program(), folder, "text_encoder", "input_ids", "encoder_hidden_states")
    replace_text(folder / VOCABULARY, json.dumps(vocabulary, ensure_ascii=False) + "\n")

    network = written.open(folder / written.files[0], None, ["input_ids"])
    generator, error = torch.Generator().manual_seed(0), 0.0
    for kept in range(1, length + 1, max(1, length // PARITY_TEXTS)):
        tokens = torch.randint(1, len(vocabulary), (1, length), generator=generator)
        tokens[:, kept:] = PADDING
        with torch.no_grad():
            expected = states(tokens).numpy()
        error = max(error, error_of(network(tokens.numpy())[:, :kept], expected[:, :kept]))
    check_error(error, TOLERANCES["fp32"], "text encoder")
    entry = {"network": written.files[0], "vocabulary": VOCABULARY, "max_length": length, "max_error": error}
    return [*written.files, VOCABULARY], entry
