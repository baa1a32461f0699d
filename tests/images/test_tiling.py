"""Tiles: the parts add up to the whole, without seams, whatever the size."""

import pytest
import torch

from continuous_unet.base.errors import InputError
from continuous_unet.images.tiling import Tiles, in_tiles
from continuous_unet.models import size_multiple
from continuous_unet.models.build import build_unet


def whole(*args, **options):
    return torch.cat(list(in_tiles(*args, **options)), dim=2)


@pytest.mark.parametrize("size", [(1, 1), (5, 64), (64, 65), (97, 33), (130, 71)])
@pytest.mark.parametrize("scale", [1, 3])
def test_what_is_not_changed_comes_back(size, scale):
    """Weights sum to one, padding is cut off, and every place is where it was."""
    image = torch.rand(2, 3, *size)
    seen = []

    def enlarge(tile):
        seen.append(tuple(tile.shape[2:]))
        return tile.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)

    result = whole(enlarge, image, multiple=4, scale=scale, tiles=Tiles(32, 8))
    torch.testing.assert_close(result, image.repeat_interleave(scale, 2).repeat_interleave(scale, 3))
    assert all(h % 4 == w % 4 == 0 and max(h, w) <= 32 for h, w in seen)


def test_no_more_than_a_row_of_tiles_is_held():
    image = torch.rand(1, 1, 200, 40)
    bands = list(in_tiles(lambda tile: tile, image, multiple=1, tiles=Tiles(32, 8)))
    assert max(band.shape[2] for band in bands) <= 32
    assert sum(band.shape[2] for band in bands) == 200


def restorer():
    torch.manual_seed(0)
    unet = build_unet("restorer", in_channels=1, out_channels=1, block_out_channels=(8, 8))
    with torch.no_grad():
        for parameter in unet.parameters():  # conv_out is zero, and nothing would be seen
            parameter.add_(0.1 * torch.randn_like(parameter))
    return unet.eval()


@torch.no_grad()
def test_tiles_leave_no_seam():
    """The network in tiles differs from the network on the whole image by less than 0.01 dB of PSNR."""
    unet, image = restorer(), torch.rand(1, 1, 120, 104)
    clean = image - 0.1 * torch.randn_like(image)
    one = unet(image, 0).sample
    tiled = whole(lambda tile: unet(tile, 0).sample, image, multiple=size_multiple(unet), tiles=Tiles(48, 16))
    assert float(one.std()) > 0.05  # the network does something

    def psnr(result):
        return float(-10 * ((image - 0.1 * result - clean) ** 2).mean().log10())

    assert abs(psnr(one) - psnr(tiled)) < 0.01
    # where only one tile counts, and far from its edges, nothing differs at all
    torch.testing.assert_close(one[..., :8, :8], tiled[..., :8, :8], rtol=0, atol=1e-4)


@torch.no_grad()
def test_group_norm_sees_the_whole_image_and_pixel_norm_does_not():
    """Why restorers have the one and not the other."""
    image = torch.rand(1, 1, 64, 64)
    other = image.clone()
    other[..., 56:, 56:] += 5
    for norm_type, same in (("pixel", True), ("none", True), ("group", False)):
        torch.manual_seed(0)
        unet = build_unet("restorer", in_channels=1, out_channels=1, block_out_channels=(8,), norm_type=norm_type)
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        near, far = (unet(x, 0).sample[..., :16, :16] for x in (image, other))
        assert torch.equal(near, far) == same, norm_type


@pytest.mark.parametrize("size", [(8, 0), (32, 17), (32, -1)])
def test_tiles_that_cannot_be(size):
    with pytest.raises(InputError, match="twice the overlap"):
        Tiles(*size)


def test_work_can_be_stopped_between_tiles():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        whole(lambda tile: tile, torch.rand(1, 1, 8, 8), multiple=1, before_tile=stop)
