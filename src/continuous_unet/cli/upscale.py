"""Enlarge images by 2, 3 or 4, with what the model knows of photographs.

cunet upscale photo.jpg --output large.png
cunet upscale photos/ --scale 4 --output large/

Without --model, the models of scale 2 and 4 that come with the package; they work on the luma, and the colour is
enlarged by bicubic interpolation.
"""

import argparse

from continuous_unet.cli.restoration import add_file_arguments, run_call
from continuous_unet.tasks.upscale.options import UpscaleOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file_arguments(parser, UpscaleOptions)


def run(arguments: argparse.Namespace) -> int:
    return run_call(arguments, UpscaleOptions, "continuous_unet.tasks.upscale.run:upscale_files")
