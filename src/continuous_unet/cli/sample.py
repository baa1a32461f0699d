"""Make images or clips with a trained model.

The model is a run folder, any saved pipeline or model, or a model of the package (see `cunet models`).

cunet sample runs/digits --num 64 --steps 50 --scheduler ddim --seed 0 --output digits.png
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.tasks.generate.options import SampleOptions

SAMPLE = Verb(SampleOptions, "continuous_unet.tasks.generate.run:sample_images", __doc__)
