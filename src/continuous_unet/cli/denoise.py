"""Remove noise from images, by a model trained for it or by any diffusion model.

cunet denoise noisy.png --output clean.png
cunet denoise photos/ --model runs/photos --sigma 25 --mode sample --output clean/

Without --model, the blind grey denoiser that comes with the package; colour images are denoised channel by channel.
"""

import argparse

from continuous_unet.cli.restoration import add_file_arguments, run_call
from continuous_unet.tasks.denoise.options import DenoiseOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file_arguments(parser, DenoiseOptions)


def run(arguments: argparse.Namespace) -> int:
    return run_call(arguments, DenoiseOptions, "continuous_unet.tasks.denoise.run:denoise_files")
