"""Remove noise from images, by a model trained for it or by any diffusion model.

cunet denoise noisy.png --output clean.png
cunet denoise photos/ --model runs/photos --sigma 25 --mode sample --output clean/

Without --model, the blind grey denoiser that comes with the package; colour images are denoised channel by channel.
"""

import argparse
import dataclasses
from dataclasses import dataclass

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.cli.old_arguments import make_options, read_config
from continuous_unet.cli.restoration import SamplingOptions, add_file_arguments, load, option, run_files


@dataclass
class DenoiseOptions(SamplingOptions):
    """Options of the verb."""

    sigma: str = option("auto", "standard deviation of the noise, of 255, or auto to estimate it")

    def validate(self) -> "DenoiseOptions":
        super().validate()
        self.strength()
        return self

    def strength(self) -> float | str:
        """The sigma as a number, or `"auto"`."""
        if self.sigma == "auto":
            return "auto"
        try:
            value = float(self.sigma)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 255:
            raise InputError(f"--sigma {self.sigma} must be auto or a number from 0 to 255")
        return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file_arguments(parser, DenoiseOptions)


def run(arguments: argparse.Namespace) -> int:
    options = make_options(DenoiseOptions, arguments, read_config(arguments.config, DenoiseOptions))
    if arguments.print_config:
        print(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), end="")
        return 0
    options.validate()

    import torch

    from continuous_unet.base.randomness import derive_seed
    from continuous_unet.images.tiling import Tiles
    from continuous_unet.tasks.files import plan_files

    jobs = plan_files(arguments.inputs, options.output, options.overwrite)
    name = options.model or "denoise-grey"
    pipeline = load(options, name, "denoise")
    if pipeline.scheduler is None and options.mode == "sample":
        raise InputError(f"--mode sample needs a diffusion model, and {name} was trained to give the mean")
    tiles = Tiles(options.tile, options.overlap)

    def restore(photograph, before_tile):
        image = photograph.tensor().to(pipeline.device)
        sigma = pipeline.strength(image, options.strength())
        # each image by its own numbers, not by the order of the files
        generator = torch.Generator().manual_seed(derive_seed("denoise", options.seed))
        bands = pipeline.bands(image, sigma, options.mode, options.steps, generator, tiles, before_tile)
        with torch.no_grad():
            result = photograph.from_bands(bands)
        told = [] if sigma is None or options.sigma != "auto" else [f"noise estimated: sigma {sigma:.1f} of 255"]
        if (
            sigma is not None
            and pipeline.scheduler is None
            and not (pipeline.config.sigma_min <= sigma <= pipeline.config.sigma_max)
        ):
            low, high = pipeline.config.sigma_min, pipeline.config.sigma_max
            told.append(f"sigma {sigma:.1f} is outside what the model was trained on, {low:g} to {high:g}")
        if not pipeline.needs_sigma and options.sigma != "auto":
            told.append("the sigma was not used: the model is blind")
        if image.shape[0] != pipeline.channels:
            how = "channel by channel" if pipeline.channels == 1 else "as grey in all three channels"
            told.append(f"{'colour' if image.shape[0] == 3 else 'grey'} image, denoised {how}")
        return dataclasses.replace(result, notes=[*result.notes, *told]), {"sigma": sigma}

    return run_files(arguments, options, jobs, restore, model=name, mode=options.mode)
