import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image

from continuous_unet.training import TrainConfig


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Models of this size gain nothing from threads, and on a busy machine wait for each other ten times as long.

    The same in the processes that tests start: sums are only then equal bit for bit.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(tmp_path):
    """A run of a model of a few thousand parameters on drawn shapes; takes seconds."""

    def make(**changes):
        options = {
            "data": "shapes",
            "image_size": 8,
            "output": str(tmp_path / "run"),
            "preset": "tiny",
            "model_options": {
                "block_out_channels": [8, 8],
                "norm_num_groups": 4,
                "add_attention": False,
                "dropout": 0.1,
            },
            "steps": 6,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "lr_warmup_steps": 2,
            "random_flip": True,
            "num_validation": 4,
            "checkpoint_every": 3,
            "log_every": 1,
            "validate_every": 3,
            "sample_every": 6,
            "sampling_steps": 2,
            "num_samples": 2,
            "device": "cpu",
        }
        return TrainConfig.from_dict({**options, **changes})

    return make


def unet(**options):
    """A discrete U-Net for 8x8 images of one channel, with the same weights each time."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, norm_num_groups=4, layers_per_block=1, add_attention=False,
        **blocks, **options,
    ).eval()  # fmt: skip


@pytest.fixture
def images(tmp_path):
    """A folder of twelve grey images, each of another shade."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(folder / f"{i}.png")
    return folder
