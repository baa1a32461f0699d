"""Latents that are made once and stored: the same as encoding each image, verified, and continued where cut off."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from continuous_unet.base.errors import InputError
from continuous_unet.codecs import stored
from continuous_unet.codecs.autoencoder import Autoencoder
from continuous_unet.codecs.stored import StoredLatents
from continuous_unet.data import open_dataset
from tests.codecs.kinds import kl, tiny


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(stored, "SHARD", 3)
    monkeypatch.setattr(stored, "BATCH", 2)


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(7):
        Image.effect_noise((10, 8), 60 + i).convert("RGB").save(folder / f"{i}.png")
    return folder


def opened(folder, **options):
    return open_dataset(folder, image_size=8, progress=False, **options)


def made(dataset, where, network=None, mirrored=True):
    latents = StoredLatents(Autoencoder(network or tiny()), dataset, mirrored)
    latents.make(where, progress=False)
    latents.open(where)
    latents.scale = latents.measure(np.arange(len(dataset)))
    return latents


@pytest.mark.parametrize("network", [tiny, kl])
def test_items_are_the_encoded_images(network, photographs, tmp_path):
    images = opened(photographs, random_flip=True)
    latents = made(images, tmp_path / "latents", network())
    codec = Autoencoder(network(), latents.scale)
    dataset = replace(images, stored=latents, indices=images.indices[1:])
    assert dataset.shape == (codec.latent_channels, 4, 4)
    original = replace(images, indices=images.indices[1:])
    mirrored = 0
    for epoch in range(3):
        for i in range(len(dataset)):
            item, image = dataset[epoch, i], original[epoch, i]["image"]
            torch.testing.assert_close(item["image"], codec.encode(image[None])[0], rtol=1e-4, atol=1e-4)
            plain = replace(original, preparation=replace(original.preparation, random_flip=False))[epoch, i]["image"]
            mirrored += not torch.equal(plain, image)
            assert item["index"] == i
    assert 3 < mirrored < 15


def test_the_scale_makes_the_variance_one(photographs, tmp_path):
    latents = made(opened(photographs), tmp_path / "latents", mirrored=False)
    values = torch.stack([latents(i, False) for i in range(7)]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(dim=1), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.std(dim=1, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    some = latents.measure(np.array([0, 4, 6]))
    raw = torch.stack([latents.shards[i // 3][i % 3, 0] for i in (0, 4, 6)]).double().transpose(0, 1).flatten(1)
    assert some.mean == pytest.approx(raw.mean(dim=1).tolist(), rel=1e-5)
    assert some.std == pytest.approx(raw.std(dim=1, correction=0).tolist(), rel=1e-5)


def test_work_that_was_cut_off_goes_on_and_damage_is_repaired(photographs, tmp_path, monkeypatch):
    images, where = opened(photographs), tmp_path / "latents"
    whole = made(images, where).shards
    files = sorted(where.iterdir())
    assert [file.name for file in files] == ["00000.safetensors", "00001.safetensors", "00002.safetensors"]
    files[1].unlink()
    content = load_file(files[2])["latents"]
    with stored.safe_open(files[2], framework="pt") as file:
        about = file.metadata()
    save_file({"latents": content + 1e-3}, files[2], metadata=about)
    encoded = []
    encode = StoredLatents._encode

    def counted(self, positions):
        encoded.extend(positions)
        return encode(self, positions)

    monkeypatch.setattr(StoredLatents, "_encode", counted)
    latents = StoredLatents(Autoencoder(tiny()), images, True)
    latents.make(where, progress=False)
    assert encoded == [3, 4, 5, 6]
    latents.open(where)
    assert all(torch.equal(a, b) for a, b in zip(latents.shards, whole, strict=True))


def test_latents_of_another_codec_or_of_other_images_are_refused(photographs, tmp_path):
    images, where = opened(photographs), tmp_path / "latents"
    made(images, where)
    with pytest.raises(InputError, match="other images, or of another codec"):
        StoredLatents(Autoencoder(tiny(latent_channels=4)), images, True).make(where, progress=False)
    with pytest.raises(InputError, match="other images, or of another codec"):
        StoredLatents(Autoencoder(tiny()), images, False).make(where, progress=False)
    Image.effect_noise((10, 8), 5).convert("RGB").save(photographs / "6.png")  # the same name
    changed = StoredLatents(Autoencoder(tiny()), opened(photographs), True)
    changed.make(where, progress=False)
    with pytest.raises(InputError, match=r"not those of 6\.png, which has changed"):
        changed.open(where)
    (photographs / "6.png").unlink()
    with pytest.raises(InputError, match="other images, or of another codec"):
        StoredLatents(Autoencoder(tiny()), opened(photographs), True).make(where, progress=False)


def test_what_cannot_be_encoded_is_named(photographs, tmp_path):
    images = opened(photographs)
    (photographs / "2.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"2\.png can no longer be read"):
        StoredLatents(Autoencoder(tiny()), images, True).make(tmp_path / "latents", progress=False)
    dead = tiny()
    with torch.no_grad():
        dead.encoder.layers[-1].weight.zero_()
    with pytest.raises(InputError, match="all the same; train it more"):
        made(replace(images, indices=images.indices[:1]), tmp_path / "dead", dead)
