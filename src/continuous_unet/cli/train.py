"""Train a model of images, of clips or of the plans of robots, or an autoencoder.

--task says what is learned. The images are a folder, an archive, IDX files, a .npz, a Hugging Face data set or a
built-in one. docs/video.md has more about clips, docs/planning.md about episodes, docs/latents.md about autoencoders.

cunet train --data digits --image-size 16 --preset tiny --output runs/digits --steps 2000
cunet train --data photos/ --task denoise --fit patch --image-size 64 --output runs/denoiser
cunet train --output runs/digits --resume
"""

from pathlib import Path

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import read_layer
from continuous_unet.base.results import Json
from continuous_unet.cli.verb import Verb
from continuous_unet.training.config import TrainConfig, recorded


def begun(output: str) -> Json:
    """Returns the options that the run in a folder was begun with."""
    saved = Path(output) / "config.yaml"
    if not saved.is_file():
        raise InputError(f"{output} holds no run to resume; start one without --resume")
    return recorded(read_layer(TrainConfig, saved)).flat()


TRAIN = Verb(TrainConfig, "continuous_unet.training.run:train", __doc__, begun)
