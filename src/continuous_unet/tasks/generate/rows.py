"""Pictures with a row of images for each thing that is asked for, such as each class."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.images.grids import make_grid
from continuous_unet.tasks.facts import ConditionFacts
from continuous_unet.tasks.generate.request import ANY, ClassLabel, class_number, in_one_line

ALL = "all"
"""The name that stands for all classes, a row each, unless a class has it."""


@dataclass(frozen=True)
class Row:
    """Images that are asked for in the same way."""

    label: str
    """What stands beside them."""
    request: Json
    """Arguments of `generate`, such as `class_label`."""
    class_name: str = ""
    """The class that is asked for, if there is one."""


def class_rows(classes: Iterable[ClassLabel], rows: int | None, known: ConditionFacts) -> list[Row]:
    """Returns a row for each of some classes, given by name or number; `all` stands for all of them.

    Args:
        classes: the classes.
        rows: the number of classes of the model's embedding, as `class_number` takes it.
        known: what is known of them.

    Raises:
        InputError: for a class that the model does not have.
    """
    names = known.classes or ()
    found: list[Row] = []
    for label in classes:
        if label == ALL and ALL not in names:
            if rows is None:
                raise InputError("this model was trained without classes; leave --class out")
            numbers: Iterable[int] = range(rows - (known.null_class is not None))
        else:
            numbers = [class_number(label, rows, known)]
        for number in numbers:
            name = ANY if number == known.null_class else names[number] if names else str(number)
            found.append(Row(name, {"class_label": number}, name))
    return found


def prompt_rows(prompts: Iterable[str], rows: Sequence[Row]) -> list[Row]:
    """Returns a row for each prompt, in each of the rows that are asked for otherwise."""
    return [
        replace(row, label=f"{row.label}: {prompt}" if row.label else prompt, request={**row.request, "prompt": prompt})
        for row in rows
        for prompt in prompts
    ]


def jobs_of(rows: Sequence[Row], number: int, batch_size: int) -> list[tuple[Json, range]]:
    """Returns the jobs of `generate_share` for `number` images in each row.

    Rows are numbered on, but image k of each row has the random numbers of image k, so that columns can be compared.
    """
    return [
        ({**row.request, "first": start}, range(place + start, place + min(start + batch_size, number)))
        for place, row in zip(range(0, number * len(rows), number), rows, strict=True)
        for start in range(0, number, batch_size)
    ]


def picture_of(rows: Sequence[Row], images: Tensor) -> Image.Image:
    """Returns a grid of the images `(N, C, H, W)` in [0, 1] of some rows; labels stand beside them if they differ."""
    if len(rows) == 1:
        return make_grid(images)
    labels = [in_one_line(row.label) for row in rows]
    return make_grid(images, columns=len(images) // len(rows), row_labels=labels)
