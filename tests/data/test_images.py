"""Modes, orientation, sizes, augmentation, splits and order."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.data import EpochSampler, open_dataset, train_validation_split
from continuous_unet.images.decode import fit_image, load_image, normalise_mode, to_array


def decoded(image, channels, format="PNG", size=None, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    loaded = normalise_mode(load_image(buffer.getvalue()), channels)
    return to_array(fit_image(loaded, size or loaded.width, "crop"), channels)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 256, 32768, 65535]] * 4, dtype=np.uint16)
    result = decoded(Image.fromarray(values), 1)
    np.testing.assert_allclose(result[0, 0], values[0] / 65535 * 2 - 1, atol=1e-6)
    np.testing.assert_allclose(decoded(Image.fromarray(values), 3)[2], result[0])


def test_float_and_one_bit():
    values = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_allclose(decoded(Image.fromarray(values), 1, "TIFF")[0], values * 2 - 1, atol=1e-6)
    bits = Image.fromarray(values > 0.5)
    assert bits.mode == "1"
    np.testing.assert_array_equal(decoded(bits, 1)[0], np.where(values > 0.5, 1, -1))


def test_transparency_lies_on_white_unless_asked_for():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (255, 0, 0, 255)
    rgba[0, 1] = (255, 0, 0, 0)
    rgba[1, 0] = (0, 0, 0, 128)
    image = Image.fromarray(rgba)
    result = decoded(image, 3)
    np.testing.assert_allclose(result[:, 0, 0], [1, -1, -1])
    np.testing.assert_allclose(result[:, 0, 1], [1, 1, 1])
    np.testing.assert_allclose(result[:, 1, 0], [-0.004] * 3, atol=0.01)
    np.testing.assert_allclose(decoded(image, 4)[3, 0], [1, -1])


def test_palette_with_transparency_and_cmyk():
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 0, 255, 0])
    np.testing.assert_allclose(decoded(palette, 3)[:, 0, 0], [-1, 1, -1])
    np.testing.assert_allclose(decoded(palette, 3, transparency=1)[:, 0, 0], [1, 1, 1])
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    np.testing.assert_allclose(decoded(cmyk, 3, "TIFF")[:, 0, 0], [1, -1, -1], atol=0.02)


def test_exif_orientation_is_honoured():
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, :4] = 255  # the left half is white; turned upright, the top half
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", exif=exif)
    upright = np.asarray(load_image(buffer.getvalue()))
    assert upright.shape == (8, 4)
    assert upright[:4].min() == 255
    assert upright[4:].max() == 0


def test_animations_give_their_first_frame():
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    result = decoded(frames[0], 1, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(result, 10 / 127.5 - 1, atol=1e-6)


def test_pad_centres_on_black_and_does_not_enlarge():
    padded = np.asarray(fit_image(Image.new("L", (28, 28), 255), 32, "pad"))
    assert padded.shape == (32, 32)
    assert padded[2:30, 2:30].min() == 255
    assert padded[:2].max() == padded[:, 30:].max() == 0
    shrunk = np.asarray(fit_image(Image.new("L", (64, 32), 255), 32, "pad"))
    assert (shrunk[:, 5] > 0).sum() == 16


def test_crop_keeps_the_middle_and_stretch_everything():
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 255
    image = Image.fromarray(pixels)
    assert np.asarray(fit_image(image, 10, "crop")).min() == 255
    assert np.asarray(fit_image(image, 10, "crop", offset=(0.0, 0.5))).max() == 0
    stretched = np.asarray(fit_image(image, 10, "stretch"))[5]
    assert stretched[:2].max() == stretched[8:].max() == 0
    assert stretched[4:6].min() == 255


def folder(path, sizes, mode="RGB"):
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode).save(path / f"{i}.png")
    return path


def test_channels_follow_the_images(tmp_path):
    assert open_dataset(folder(tmp_path, [(8, 8)] * 2, "L"), progress=False).report.channels == 1
    Image.new("RGB", (8, 8)).save(tmp_path / "colour.png")
    assert open_dataset(tmp_path, progress=False).report.channels == 3
    assert open_dataset(tmp_path, channels=4, progress=False)[0]["image"].shape == (4, 8, 8)


def test_sizes_must_be_said_when_they_differ(tmp_path):
    folder(tmp_path, [(8, 8), (12, 9)])
    with pytest.raises(InputError, match=r"8x8 to 12x9 pixels.*--image-size"):
        open_dataset(tmp_path, progress=False)
    report = open_dataset(tmp_path, image_size=4, progress=False).report
    assert "8x8 to 12x9 pixels, used as 4x4 RGB" in report.summary()


@pytest.mark.parametrize(
    "wrong", [{"image_size": 0}, {"channels": 2}, {"split": "x"}, {"fit": "x"}, {"on_bad_image": "x"}]
)
def test_wrong_arguments_are_named(wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=name):
        open_dataset("shapes", **{"image_size": 8, **wrong})


def test_augmentation_depends_on_epoch_and_index_alone():
    dataset = open_dataset("shapes", image_size=16, random_flip=True, seed=3)
    plain = open_dataset("shapes", image_size=16)
    flipped = []
    for epoch in range(20):
        image = dataset[(epoch, 4)]["image"]
        assert torch.equal(image, open_dataset("shapes", image_size=16, random_flip=True, seed=3)[(epoch, 4)]["image"])
        flipped.append(torch.equal(image, plain[4]["image"].flip(-1)))
        assert flipped[-1] or torch.equal(image, plain[4]["image"])
    assert 3 < sum(flipped) < 17


def test_random_crops_move(tmp_path):
    dataset = open_dataset(folder(tmp_path, [(40, 8)]), image_size=8, random_crop=True, progress=False)
    assert len({dataset[(epoch, 0)]["image"].sum().item() for epoch in range(8)}) > 3


def test_split_holds_out_without_overlap():
    dataset = open_dataset("shapes", image_size=8, random_flip=True)
    train, validation = train_validation_split(dataset, 96, seed=1)
    assert len(train) == 4000
    assert len(validation) == 96
    assert not set(train.indices) & set(validation.indices)
    assert train.preparation.random_flip
    assert not validation.preparation.random_flip
    assert train.report.num_images == 4000
    assert not np.array_equal(validation.indices, train_validation_split(dataset, 96, seed=2)[1].indices)
    with pytest.raises(InputError, match="4096"):
        train_validation_split(dataset, 4096)


def take(sampler, batches):
    iterator = iter(sampler)
    return [next(iterator) for _ in range(batches)]


def test_every_image_comes_once_an_epoch():
    keys = [key for batch in take(EpochSampler(10, 4, seed=1), 10) for key in batch]
    for epoch in range(4):
        here = keys[10 * epoch : 10 * epoch + 10]
        assert [e for e, _ in here] == [epoch] * 10
        assert sorted(i for _, i in here) == list(range(10))
    assert [i for _, i in keys[:10]] != [i for _, i in keys[10:20]]


def test_beginning_later_gives_the_rest():
    assert take(EpochSampler(10, 4, seed=1), 12)[7:] == take(EpochSampler(10, 4, seed=1, start_batch=7), 5)


def test_processes_share_one_sequence():
    alone = take(EpochSampler(10, 4), 6)
    parts = [take(EpochSampler(10, 2, rank=rank, world_size=2), 6) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == alone
    assert EpochSampler(10, 2, rank=1, world_size=2).positions(3) == range(14, 16)


def test_patches_are_pieces_at_the_images_own_resolution(tmp_path):
    pixels = np.arange(40 * 30, dtype=np.uint16).reshape(30, 40).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    options = {"image_size": 8, "fit": "patch", "random_crop": True, "progress": False}
    dataset = open_dataset(tmp_path / "in", **options)
    pieces = {pixels[y : y + 8, x : x + 8].tobytes() for y in range(23) for x in range(33)}
    found = [((dataset[epoch, 0]["image"][0] + 1) * 127.5).round().byte().numpy().tobytes() for epoch in range(20)]
    assert set(found) <= pieces
    assert len(set(found)) > 10
    # a smaller image is enlarged
    assert open_dataset(tmp_path / "in", **{**options, "image_size": 35})[0]["image"].shape == (1, 35, 35)
