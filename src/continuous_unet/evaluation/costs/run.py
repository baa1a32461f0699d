"""The library call behind `cunet profile`."""

from continuous_unet.base.devices import pick_device
from continuous_unet.base.signals import StopRequest
from continuous_unet.evaluation.costs.profile import ModelProfile, profile_model
from continuous_unet.evaluation.options import ProfileOptions
from continuous_unet.tasks.loading import load_model_or_preset


def profile(options: ProfileOptions, *, stop: StopRequest | None = None) -> ModelProfile:
    """Measures what a model costs: parameters, MACs, memory and latency.

    Args:
        options: the model, the size of its input, and how to measure.
        stop: unused; profiling takes seconds.

    Raises:
        InputError: for options or a model that cannot be used.
    """
    options.validate()
    model = load_model_or_preset(options.model, options.sample_size, options.channels, options.solver_steps)
    return profile_model(
        model.to(pick_device(options.device)),
        sample_size=options.sample_size,
        batch_size=options.batch_size,
        repeats=options.repeats,
    )
