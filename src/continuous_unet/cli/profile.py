"""What a model costs: parameters, MACs with every solver stage, evaluations, memory, latency.

cunet profile base --json
cunet profile runs/digits --solver-steps 1
"""

import argparse
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.cli.old_arguments import add_fields, make_options, print_json, read_config
from continuous_unet.models.presets import PRESETS


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ProfileOptions:
    """Options of the verb."""

    sample_size: int | None = _option(
        None, "side of the images; the model's own if left out (a preset: 32, base and ddpm 64)"
    )
    channels: int | None = _option(None, "channels of a preset's images (1 for tiny, 3 for the others)")
    batch_size: int = _option(1, "images at a time")
    repeats: int = _option(20, "timed forward passes")
    solver_steps: int | None = _option(None, "solver steps in each block; as trained if left out")
    device: str | None = _option(None, "cpu, cuda or mps; the best there is if left out")

    def validate(self) -> "ProfileOptions":
        for name in ("sample_size", "channels", "batch_size", "repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value} must be at least 1")
        return self


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL_OR_PRESET", help=f"a run, a saved model, or one of {', '.join(PRESETS)}"
    )
    add_fields(parser, ProfileOptions)
    parser.add_argument("--json", action="store_true", help="print the profile as JSON")


def run(arguments: argparse.Namespace) -> int:
    options = make_options(ProfileOptions, arguments, read_config(arguments.config, ProfileOptions))
    if arguments.print_config:
        print(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), end="")
        return 0
    options.validate()

    from continuous_unet.base.devices import pick_device
    from continuous_unet.evaluation import profile_model
    from continuous_unet.tasks.loading import load_model_or_preset

    model = load_model_or_preset(arguments.model, options.sample_size, options.channels, options.solver_steps)
    profile = profile_model(
        model.to(pick_device(options.device)),
        sample_size=options.sample_size,
        batch_size=options.batch_size,
        repeats=options.repeats,
    )
    if arguments.json:
        print_json(profile.to_dict())
    else:
        print(profile.to_text())
    return 0
