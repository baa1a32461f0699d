import numpy as np
import pytest
import torch
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.images.grids import make_grid, output_paths, save_images, to_pil


def test_pixels_and_modes():
    images = torch.tensor([0.0, 0.5, 1.0, 2.0]).reshape(1, 1, 2, 2)
    (grey,) = to_pil(images)
    assert grey.mode == "L"
    assert np.asarray(grey).ravel().tolist() == [0, 128, 255, 255]
    assert [to_pil(torch.zeros(1, c, 2, 2))[0].mode for c in (3, 4)] == ["RGB", "RGBA"]


def test_a_grid_holds_every_image_in_rows():
    images = torch.arange(5).reshape(5, 1, 1, 1).expand(5, 1, 3, 4) / 5
    grid = np.asarray(make_grid(images, columns=3, padding=1, background=1.0, scale=1))
    assert grid.shape == (2 * 4 + 1, 3 * 5 + 1)
    centres = [grid[2 + 4 * (i // 3), 2 + 5 * (i % 3)] for i in range(6)]
    assert centres == [0, 51, 102, 153, 204, 255]


def test_files_and_grids(tmp_path):
    images = torch.rand(3, 1, 4, 4)
    save_images(images, output_paths(tmp_path / "many", 3))
    assert [p.name for p in sorted((tmp_path / "many").iterdir())] == ["0000.png", "0001.png", "0002.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "many" / "0001.png")), np.asarray(to_pil(images)[1]))
    save_images(images, output_paths(tmp_path / "grid.png", 3))
    assert Image.open(tmp_path / "grid.png").size == (2 * 48 + 6, 2 * 48 + 6)  # 4 pixels, 12 times as large
    save_images(images[:1], output_paths(tmp_path / "one.png", 1))
    assert Image.open(tmp_path / "one.png").size == (4, 4)


def test_nothing_is_overwritten_by_accident(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("precious")
    with pytest.raises(InputError, match="--overwrite"):
        output_paths(path, 1)
    assert output_paths(path, 1, overwrite=True) == [path]
    with pytest.raises(InputError, match=r"name that ends in \.png"):
        output_paths(tmp_path / "a.jpg", 1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        output_paths(tmp_path / "file", 1)
    with pytest.raises(InputError, match="is not a folder that"):
        output_paths(tmp_path / "file" / "sub", 2)
