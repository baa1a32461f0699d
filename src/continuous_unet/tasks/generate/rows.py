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
    turns: tuple["Row", ...] = ()
    """What its images show in turn, in place of one thing."""

    def of(self, number: int) -> "Row":
        """Returns how image `number` of this row is asked for."""
        return self.turns[number % len(self.turns)] if self.turns else self


def class_rows(classes: Iterable[ClassLabel], rows: int | None, known: ConditionFacts) -> list[Row]:
    """Returns a row for each of some classes, given by name or number; `all` stands for all of them.

    Args:
        classes: the classes.
        rows: the number of classes of the model's embedding, as `class_number` takes it.
        known: what is known of them.

    Raises:
        InputError: for a class that the model does not have.
    """
    found: list[Row] = []
    for label in classes:
        if label == ALL and ALL not in (known.classes or ()):
            if rows is None:
                raise InputError("this model was trained without classes; leave --class out")
            found.extend(_all_rows(rows, known))
        else:
            found.append(_class_row(class_number(label, rows, known), known))
    return found


def _class_row(number: int, known: ConditionFacts) -> Row:
    name = ANY if number == known.null_class else known.classes[number] if known.classes else str(number)
    return Row(name, {"class_label": number}, name)


def _all_rows(rows: int, known: ConditionFacts) -> tuple[Row, ...]:
    return tuple(_class_row(number, known) for number in range(rows - (known.null_class is not None)))


def mixed_row(rows: int, known: ConditionFacts) -> Row:
    """Returns one row whose images show all classes in turn.

    Args:
        rows: the number of classes of the model's embedding.
        known: what is known of them.
    """
    return Row("", {}, turns=_all_rows(rows, known))


def prompt_rows(prompts: Iterable[str], rows: Sequence[Row]) -> list[Row]:
    """Returns a row for each prompt, in each of the rows that are asked for otherwise."""
    return [
        replace(row, label=f"{row.label}: {prompt}" if row.label else prompt, request={**row.request, "prompt": prompt})
        for row in rows
        for prompt in prompts
    ]


def jobs_of(rows: Sequence[Row], number: int, batch_size: int) -> list[tuple[Json, range]]:
    """Returns the jobs of `generate_share` for `number` images in each row.

    Images are numbered on from row to row, but image k of each row has the random numbers of image k, so that columns
    can be compared.
    """
    jobs: list[tuple[Json, range]] = []
    for place, row in zip(range(0, number * len(rows), number), rows, strict=True):
        for start in range(0, number, batch_size):
            numbers = range(start, min(start + batch_size, number))
            request = {**row.request, "first": start}
            if row.turns:
                request["class_label"] = [row.of(k).request["class_label"] for k in numbers]
            jobs.append((request, range(place + numbers.start, place + numbers.stop)))
    return jobs


def picture_of(rows: Sequence[Row], images: Tensor) -> Image.Image:
    """Returns a grid of the images `(N, C, H, W)` in [0, 1] of some rows; labels stand beside them if they differ."""
    if len(rows) == 1:
        return make_grid(images)
    labels = [in_one_line(row.label) for row in rows]
    return make_grid(images, columns=len(images) // len(rows), row_labels=labels)
