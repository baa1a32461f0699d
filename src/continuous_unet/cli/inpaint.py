"""Fill holes of an image by any unconditional diffusion model (RePaint), without training for it.

cunet inpaint photo.png --mask hole.png --model runs/photos --output filled.png

The mask has the size of the image; white is filled and black is kept. With several images, it is for all of them.
"""

import argparse

from continuous_unet.cli.restoration import add_file_arguments, run_call
from continuous_unet.tasks.inpaint.options import InpaintOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file_arguments(parser, InpaintOptions)


def run(arguments: argparse.Namespace) -> int:
    return run_call(arguments, InpaintOptions, "continuous_unet.tasks.inpaint.run:inpaint_files")
