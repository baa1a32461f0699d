"""What a call of the sampling pipeline asks for, checked and turned into the conditions that the model takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.leaves import nearest
from continuous_unet.diffusion.guidance import Guidance
from continuous_unet.tasks.facts import ConditionFacts, Facts

ANY = "any"
"""The name that stands for any class, unless a class has it."""
MOST_NAMES_SHOWN = 20
ClassLabel = int | str
ClassLabels = Tensor | ClassLabel | Sequence[ClassLabel] | None
"""One class for all images, by number or by name, or one for each; None for any class."""
Conditions = Mapping[str, Tensor]


@dataclass(frozen=True)
class Asked:
    """What one call asks for, as arguments of the model's call, of one row for all images or one for each."""

    conditions: Conditions
    free: Conditions
    """What guidance leads away from: the same arguments for anything; empty without guidance."""
    guidance: Guidance


def ask(
    config: Any,
    facts: Facts,
    batch_size: int,
    device: torch.device,
    *,
    class_labels: ClassLabels = None,
    text: tuple[Conditions, Conditions] = ({}, {}),
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
) -> Asked:
    """Returns what a call asks for.

    Args:
        config: the configuration of the U-Net.
        facts: what is saved with the model.
        batch_size: number of images.
        device: where the model is.
        class_labels: see `ClassLabels`.
        text: what `prompts.text_conditions` returned.
        guidance_scale: that of the model if None, and 1 for any class.
        guidance_interval: the part of the noise range with guidance.

    Raises:
        InputError: for classes that the model does not have, and guidance that it was not trained for.
    """
    known = facts.conditions
    conditions: dict[str, Tensor] = {}
    free: dict[str, Tensor] = {}
    numbers = _class_numbers(class_labels, config, known, batch_size)
    if numbers is not None:
        conditions["class_labels"] = numbers.to(device)
        if known.null_class is not None:
            free["class_labels"] = torch.full_like(conditions["class_labels"], known.null_class)
    conditions |= text[0]
    free |= text[1]
    nothing_asked = all(name in free and torch.equal(free[name], value) for name, value in conditions.items())
    if guidance_scale is None:
        guidance_scale = known.guidance_scale if free and not nothing_asked else 1.0
    guidance = Guidance(guidance_scale, guidance_interval)
    if guidance.scale == 1:
        return Asked(conditions, {}, guidance)
    if not conditions:
        raise InputError(
            "guidance leads towards a class or a text, and this model was trained without any; leave it out"
        )
    if free.keys() != conditions.keys():
        raise InputError(
            "this model was trained without dropping its classes or captions, so guidance has nothing to lead away "
            "from; leave it out, or train a model with --condition-dropout 0.1"
        )
    if nothing_asked:
        raise InputError(
            "guidance leads towards a class or a text, and none was asked for; give one, or leave guidance out"
        )
    return Asked(conditions, free, guidance)


def _class_numbers(labels: ClassLabels, config: Any, known: ConditionFacts, batch_size: int) -> Tensor | None:
    """Returns the classes asked for, `(1,)` if they are the same for all images and `(batch_size,)` otherwise."""
    rows = config.num_class_embeds
    if rows is None and config.class_embed_type is None:
        if labels is not None:
            raise InputError("class labels were given, but this model was trained without classes; leave them out")
        return None
    if labels is None:
        if known.null_class is None:
            last = "" if rows is None else f", 0 to {rows - 1}"
            raise InputError(f"this model is class-conditional: give a class label{last}{_names(known)}")
        labels = known.null_class
    if not isinstance(labels, Tensor):
        each = [labels] if isinstance(labels, (int, str)) else list(labels)
        numbers = torch.tensor([class_number(label, rows, known) for label in each])
    else:
        numbers = labels.reshape(1) if labels.ndim == 0 else labels
        if rows is not None and numbers.numel():
            for label in (int(numbers.min()), int(numbers.max())):
                class_number(label, rows, known)
    if numbers.shape not in ((1,), (batch_size,)) or (isinstance(labels, Tensor) and labels.ndim > 1):
        raise InputError(f"class_labels has shape {tuple(numbers.shape)}; expected one label or one per image")
    return numbers[:1] if bool((numbers == numbers[0]).all()) else numbers


def class_number(label: ClassLabel, rows: int | None, known: ConditionFacts) -> int:
    """Returns the number of a class that is named, or given by its number.

    Args:
        label: the name, `"any"`, or the number, also as a text. A name takes precedence over a number.
        rows: the number of classes of the model's embedding, with that for any class; None for one of another kind.
        known: the names, as far as they are known.

    Raises:
        InputError: for an unknown class, with the nearest names.
    """
    names = known.classes or ()
    if isinstance(label, str):
        if label in names:
            return names.index(label)
        if label == ANY and known.null_class is not None:
            return known.null_class
    if isinstance(label, int) or (label.isdecimal() and label.isascii() and len(label) < 10):
        number = int(label)
        if rows is None or 0 <= number < rows:
            return number
    classes = (rows or 0) - (known.null_class is not None)
    numbers = "" if rows is None else f"; expected a number from 0 to {classes - 1}"
    raise InputError(f"class {label!r} is unknown{numbers}{_names(known)}{nearest(str(label), names)}")


def _names(known: ConditionFacts) -> str:
    """Returns the end of an error that lists the names of the classes, if they are known."""
    if known.classes is None:
        return ""
    shown = ", ".join(map(in_one_line, known.classes[:MOST_NAMES_SHOWN]))
    more = len(known.classes) - MOST_NAMES_SHOWN
    return f", or one of {shown}" + (f" and {more} more" if more > 0 else "")


def in_one_line(name: str) -> str:
    """Returns a name without line breaks, as folders may have them, and cut to 60 characters."""
    text = " ".join(name.split())
    return text if len(text) <= 60 else text[:57] + "…"
