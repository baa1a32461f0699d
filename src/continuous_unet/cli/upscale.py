"""Enlarge images by 2, 3 or 4, with what the model knows of photographs.

cunet upscale photo.jpg --output large.png
cunet upscale photos/ --scale 4 --output large/

Without --model, the models of scale 2 and 4 that come with the package; they work on the luma, and the colour is
enlarged by bicubic interpolation.
"""

import argparse
import dataclasses
from dataclasses import dataclass

import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.cli.old_arguments import make_options, read_config
from continuous_unet.cli.restoration import SamplingOptions, add_file_arguments, load, option, run_files


@dataclass
class UpscaleOptions(SamplingOptions):
    """Options of the verb."""

    # of the small image; the large one's tiles are as large as those of the other verbs
    tile: int = option(256, "side of the tiles that large images are cut into, pixels of the small image")
    overlap: int = option(32, "pixels that neighbouring tiles share")
    scale: int | None = option(None, "how often to enlarge; the model's own scale, or 2, if left out")

    def validate(self) -> "UpscaleOptions":
        super().validate()
        if self.scale is not None and self.scale not in (2, 3, 4):
            raise InputError(f"--scale {self.scale} must be 2, 3 or 4")
        return self


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file_arguments(parser, UpscaleOptions)


def run(arguments: argparse.Namespace) -> int:
    options = make_options(UpscaleOptions, arguments, read_config(arguments.config, UpscaleOptions))
    if arguments.print_config:
        print(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), end="")
        return 0
    options.validate()

    import torch

    from continuous_unet.base.randomness import derive_seed
    from continuous_unet.images.tiling import Tiles
    from continuous_unet.tasks.files import plan_files
    from continuous_unet.tasks.loading import pretrained_models

    jobs = plan_files(arguments.inputs, options.output, options.overwrite)
    name = options.model or f"upscale-x{options.scale or 2}"
    if options.model is None and name not in pretrained_models():
        raise InputError(f"no model of scale {options.scale} comes with the package; train one, and name it by --model")
    pipeline = load(options, name, "upscale")
    scale = pipeline.config.scale
    if options.scale not in (None, scale):
        raise InputError(f"--scale {options.scale}: the model {name} was trained for scale {scale}")
    if options.mode == "sample" and not pipeline.config.can_sample:
        raise InputError(f"--mode sample: the model {name} was trained for --mode mean only")
    tiles = Tiles(options.tile, options.overlap)

    def restore(photograph, before_tile):
        image = photograph.tensor().to(pipeline.device)
        generator = torch.Generator().manual_seed(derive_seed("upscale", options.seed))
        bands = pipeline.bands(image, options.mode, options.steps, generator, tiles, before_tile)
        with torch.no_grad():
            return photograph.from_bands(bands, scale), {}

    return run_files(arguments, options, jobs, restore, model=name, mode=options.mode, scale=scale)
