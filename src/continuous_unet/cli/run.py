"""Run an exported model, without torch.

It makes images or clips, denoises an image or enlarges one.

cunet run exported --num 16 --steps 20 --scheduler dpm++ --seed 0 --output images.png
cunet run exported --input noisy.png --sigma 25 --output clean.png
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.deploy.options import RunOptions

RUN = Verb(RunOptions, "continuous_unet.deploy.run_exported:run_exported", __doc__)
