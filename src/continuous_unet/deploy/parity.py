"""Measures the error of an exported network against PyTorch, on single inputs and over whole sampling runs."""

from functools import partial
from typing import Any

import numpy as np

from continuous_unet.base.errors import RunFailed
from continuous_unet.base.results import Json
from continuous_unet.deploy.standalone.runtime import AnySchedule, ExportedModel, normal_noise, sample, text_inputs

SHORT_STEPS, FULL_STEPS = 3, 20


class ParityError(RunFailed):
    """Raised if an exported network does not compute what PyTorch does."""


def measure_parity(exported: ExportedModel, reference: ExportedModel) -> Json:
    """Returns the errors of an exported network against PyTorch on the same inputs, for `export.json`.

    An error is the largest absolute difference, divided by the largest value of the reference if that is above one. It
    is absolute at the unit scale that predictions have, and relative beyond.

    Args:
        exported: the network as it was written.
        reference: the same network in PyTorch.

    Returns:
        `inputs` has one entry for each of several timesteps at two batch sizes. `short_sampling` and `full_sampling`
        compare the images after 3 and 20 sampling steps from the same noise; `gain` is the factor by which the sampler
        multiplies errors. `max_error`, which a tolerance limits, is the largest error of the inputs and of the short
        run divided by its gain; over many steps rounding grows with the model's own sensitivity. Models for
        restoration have no sampling runs.
    """
    inputs: list[Json] = []
    # denoisers get sigma, on the 0–255 scale
    timesteps = 256 if exported.info["schedule"] is None else exported.schedule.num_timesteps
    for batch in (1, 3):
        for part in (0.0, 0.5, 1.0):
            x = _noise(exported, batch, stream=1)
            # each image has a timestep of its own
            timestep = (np.linspace(part, (part + 1) / 2, batch) * (timesteps - 1)).round()
            arguments, text = (x, timestep, _labels(exported, batch)), dict[str, Any](_texts(exported, batch))
            for depth in depths_of(exported):
                error = error_of(*(model(*arguments, **{**text, **depth}) for model in (exported, reference)))
                inputs.append({"batch_size": batch, "timesteps": timestep.tolist(), **depth, "max_error": error})
    worst = max(float(entry["max_error"]) for entry in inputs)
    if exported.task != "generation":
        return {"inputs": inputs, "max_error": worst}
    runs: Json = {}
    sampler, texts = next(iter(exported.schedule.samplers)), _texts(exported, 2)
    for name, steps in (("short_sampling", SHORT_STEPS), ("full_sampling", FULL_STEPS)):
        steps = min(steps, timesteps)
        images = [
            sample(partial(m, **texts), exported.schedule, _noise(exported, 2), steps, sampler, _labels(exported, 2))
            for m in (exported, reference)
        ]
        runs[name] = {"sampler": sampler, "steps": steps, "images": 2, "max_error": error_of(*images)}
    gain = _gain(exported.schedule)
    runs["short_sampling"]["gain"] = gain
    return {"inputs": inputs, **runs, "max_error": max(worst, runs["short_sampling"]["max_error"] / gain)}


def depths_of(model: ExportedModel) -> list[Json]:
    """Returns the solver steps to compare at, as arguments; nothing for a network that is not told them."""
    if not model.takes_solver_steps:
        return [{}]
    known = model.info.get("solver_steps", {}).get("depths") or (1, 2, 4)
    return [{"num_solver_steps": number} for number in known]


def _gain(schedule: AnySchedule) -> float:
    """Returns the factor by which the first step from pure noise multiplies an error of the prediction, 1 to 100.

    A model that predicts the noise is asked there for an image that is hardly in its input. Division by the signal
    turns rounding of 1e-6 into errors of 1e-4. Predictions of `v` and of the image need no such division.
    """
    if schedule.prediction_type != "epsilon":
        return 1.0
    return min(100.0, max(1.0, schedule.strongest))


def _noise(model: ExportedModel, batch: int, stream: int = 0) -> np.ndarray:
    return np.stack([normal_noise(0, k, model.shape, stream) for k in range(batch)])


def _labels(model: ExportedModel, batch: int) -> np.ndarray | None:
    return None if model.num_classes is None else np.arange(batch) % model.num_classes


def _texts(model: ExportedModel, batch: int) -> dict[str, np.ndarray]:
    """Returns encoded texts of different lengths, for models that read one."""
    found = text_inputs(model)
    if not found:
        return {}
    length, width = found["encoder_hidden_states"]["shape"][1:]
    states = np.stack([normal_noise(0, k, (length, width), stream=2) for k in range(batch)])
    ends = np.linspace(1, length, batch).round()
    return {"encoder_hidden_states": states, "encoder_attention_mask": np.arange(length) < ends[:, None]}


def check_error(error: float, allowed: float, what: str = "network") -> None:
    """Raises ParityError for an error above the tolerance."""
    if not error <= allowed:
        raise ParityError(
            f"the exported {what} differs from PyTorch by {error:.2g}, more than the tolerance of {allowed:.2g}; "
            "nothing was written. Export in a higher precision, or allow more with --tolerance"
        )


def error_of(result: np.ndarray, reference: np.ndarray) -> float:
    """Returns the largest absolute difference, divided by the largest value of the reference if that is above one."""
    difference = float(np.abs(result - reference).max()) / max(1.0, float(np.abs(reference).max()))
    return difference if np.isfinite(difference) else float("inf")
