"""Fills holes with an exported model as the page does: RePaint (arXiv 2201.09865) along a table of steps."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from continuous_unet.deploy.standalone import runtime
from continuous_unet.deploy.standalone.runtime import ExportedModel, Row

AGAIN_STREAM = 4096
"""From here on, streams of `normal_noise` for the repeated steps."""


def rows_of(schedule: runtime.AnySchedule, steps: int) -> list[Row]:
    """Returns the rows of a filling: the model's table of that many steps, or those of its first sampler.

    Each step is repeated, so that there is no step before for a table of second order to look back to.
    """
    known = schedule.tables.get(steps, [])
    if known and not any(row.correction for row in known):
        return known
    times = [timestep for timestep, _ in runtime.steps_of(schedule, steps, next(iter(schedule.samplers)))]
    if isinstance(schedule, runtime.FlowSchedule):
        return [schedule.row(*pair) for pair in zip(times, [*times[1:], None], strict=True)]
    gap = schedule.num_timesteps // steps
    return [schedule.row(time, time - gap if time >= gap else None) for time in times]


def inpaint(
    model: ExportedModel,
    image: np.ndarray,
    hole: np.ndarray,
    *,
    steps: int | None = None,
    repeats: int = 3,
    seed: int = 0,
    class_label: int | str | None = None,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    guidance_scale: float = 1.0,
    solver_steps: int | None = None,
    on_step: Callable[[], None] = runtime.nothing,
) -> np.ndarray:
    """Returns an image `(1, C, H, W)` in [0, 1] whose hole is filled; every other pixel stays as it was.

    Before each evaluation, the known part gets the noise of the state. Each step is taken several times: new noise
    undoes it, so that the filling and its surroundings come to fit.

    Args:
        model: what `runtime.load` returns.
        image: `(1, C, H, W)` in [0, 1], of the size of the model's images.
        hole: `(H, W)`, true for the pixels to fill.
        steps: the number of sampling steps.
        repeats: the number of times that each of them is taken.
        seed: the seed of the noise.
        class_label: the class of the image.
        prompt: what the image is to show.
        negative_prompt: what guidance leads away from.
        guidance_scale: 1 is without guidance.
        solver_steps: the number of solver steps, for exports that take it as an input.
        on_step: called before each evaluation.

    Raises:
        ExportedModelError: for arguments that do not fit the model.
    """
    if image.shape[1:] != model.image_shape or hole.shape != model.image_shape[1:]:
        raise runtime.ExportedModelError(
            f"the image has shape {image.shape} and the hole {hole.shape}; this model fills {model.image_shape}"
        )
    asked = runtime.conditions_of(model, class_label, prompt)
    free = runtime.conditions_of(model, model.null_class, negative_prompt) if model.can_be_guided else None
    network = runtime.guided(model, asked, free, guidance_scale)
    told = any(about["name"] == "next_timestep" for about in model.inputs)
    known = model.encode(image * np.float32(2) - 1)
    factor = model.factor
    inner = hole.reshape(model.shape[1], factor, model.shape[2], factor).any(axis=(1, 3))

    def noise(stream: int) -> np.ndarray:
        return runtime.normal_noise(seed, 0, model.shape, stream)[None]

    x = noise(0)
    rows = rows_of(model.schedule, runtime.number_of_steps(model, steps))
    for number, again, row in _rounds(rows, repeats):
        on_step()
        x = np.where(inner, x, row.signal * known + row.noise * noise(0)).astype(np.float32)
        more = {"next_timestep": row.next_timestep} if told else {}
        if solver_steps is not None:
            more["num_solver_steps"] = solver_steps
        prediction = network(x, row.timestep, None, **more)
        # of a table of this row alone, which is number 0 there
        ((_, step),) = runtime.table(model.schedule, [row], partial(_stream, noise, runtime.FRESH_STREAM + number))
        x = step(x, prediction).astype(np.float32)
        if again + 1 < repeats:
            ratio = row.signal / row.next_signal if row.next_signal > 0 else 0.0
            rest = np.sqrt(max(0.0, row.noise**2 - (ratio * row.next_noise) ** 2))
            x = (ratio * x + rest * noise(AGAIN_STREAM + number * repeats + again)).astype(np.float32)
    made = (model.decode(x) / 2 + np.float32(0.5)).clip(0, 1)
    if not np.isfinite(made).all():
        raise runtime.ExportedModelError("the model made values that are not finite; export it in another precision")
    return np.where(hole, made, image).astype(np.float32)


def _stream(noise: Callable[[int], np.ndarray], stream: int, number: int) -> np.ndarray:
    return noise(stream)


def _rounds(rows: list[Row], repeats: int) -> Iterator[tuple[int, int, Row]]:
    for number, row in enumerate(rows):
        for again in range(repeats):
            yield number, again, row
