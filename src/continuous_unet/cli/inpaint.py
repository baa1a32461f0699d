"""Fill holes of an image by any unconditional diffusion model (RePaint), without training for it.

cunet inpaint photo.png --mask hole.png --model runs/photos --output filled.png

The mask has the size of the image; white is filled and black is kept. With several images, it is for all of them.
"""

import argparse
import dataclasses
from dataclasses import dataclass

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.cli.old_arguments import make_options, read_config
from continuous_unet.cli.restoration import FileOptions, add_file_arguments, load, option, run_files


@dataclass
class InpaintOptions(FileOptions):
    """Options of the verb."""

    mask: str = option("", "image file: white is filled, black is kept")
    steps: int = option(50, "steps of the reverse process, without its repetitions")
    jump_length: int = option(5, "steps that are gone forward again at a time")
    resamples: int = option(5, "how often each stretch is run through; 1 repeats nothing")

    def validate(self) -> "InpaintOptions":
        super().validate()
        if not self.model:
            raise InputError("no model was named; give an unconditional diffusion model with --model")
        if not self.mask:
            raise InputError("no mask was named; give an image file, white where to fill, with --mask")
        for name in ("steps", "jump_length", "resamples"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        if self.jump_length >= self.steps:
            raise InputError(f"--jump-length {self.jump_length} must be less than --steps {self.steps}")
        return self


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file_arguments(parser, InpaintOptions)


def run(arguments: argparse.Namespace) -> int:
    options = make_options(InpaintOptions, arguments, read_config(arguments.config, InpaintOptions))
    if arguments.print_config:
        print(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), end="")
        return 0
    options.validate()

    import torch

    from continuous_unet.base.randomness import derive_seed
    from continuous_unet.images.decode import Unreadable
    from continuous_unet.images.photographs import read_photograph
    from continuous_unet.images.tiling import Tiles
    from continuous_unet.tasks.files import plan_files

    jobs = plan_files(arguments.inputs, options.output, options.overwrite)
    pipeline = load(options, str(options.model), "inpaint")
    if options.steps > pipeline.scheduler.config.num_train_timesteps:
        count = pipeline.scheduler.config.num_train_timesteps
        raise InputError(f"--steps {options.steps}: the model was trained with {count} timesteps")
    try:
        mask = read_photograph(options.mask).tensor()
    except Unreadable as error:
        raise InputError(f"the mask {options.mask} cannot be read: {error}") from error
    tiles = Tiles(options.tile, options.overlap)

    def restore(photograph, before_tile):
        generator = torch.Generator().manual_seed(derive_seed("inpaint", options.seed))
        (filled,) = pipeline(
            photograph.tensor(),
            mask,
            num_inference_steps=options.steps,
            jump_length=options.jump_length,
            jump_n_sample=options.resamples,
            generator=generator,
            tiles=tiles,
            output_type="pt",
            before_tile=before_tile,
        ).images
        return photograph.from_bands([filled]), {}

    return run_files(arguments, options, jobs, restore, model=options.model)
