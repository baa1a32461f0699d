import pytest
import torch

from continuous_unet import ContinuousUNet2DModel


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def unet():
    """A small continuous U-Net that does something: its last layer is not zero."""
    model = ContinuousUNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), norm_num_groups=4
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()
