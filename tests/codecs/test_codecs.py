"""The contract of every codec, and loading them without trust."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from continuous_unet.base.errors import InputError
from continuous_unet.codecs.autoencoder import Autoencoder, fingerprint, load_autoencoder
from continuous_unet.codecs.base import Scale, check_channels, latent_size
from tests.codecs.kinds import NETWORKS, codecs, kl, tiny


@pytest.mark.parametrize("kind", codecs())
def test_shapes_and_batches(kind):
    codec = codecs()[kind]
    images = torch.rand(3, codec.channels, 8, 16) * 2 - 1
    latents = codec.encode(images)
    assert latents.shape == (3, codec.latent_channels, *latent_size(codec, 8, 16))
    assert codec.decode(latents).shape == images.shape
    assert torch.equal(codec.encode(images), latents), "something is drawn at random"
    torch.testing.assert_close(codec.encode(images[1:2])[0], latents[1])
    assert not latents.requires_grad


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_scale_is_taken_off_again(kind):
    codec = codecs()[kind]
    plain = Autoencoder(codec.network)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    raw = plain.encode(images)
    mean, std = (torch.tensor(values)[:, None, None] for values in (codec.scale.mean, codec.scale.std))
    torch.testing.assert_close(codec.encode(images), (raw - mean) / std)
    torch.testing.assert_close(codec.decode(codec.encode(images)), plain.decode(raw))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("place", ["", "vae"])
def test_a_saved_autoencoder_is_loaded(kind, place, tmp_path):
    network = NETWORKS[kind]()
    network.save_pretrained(tmp_path / place)
    if place:
        (tmp_path / "model_index.json").write_text("{}")
    found = load_autoencoder(str(tmp_path))
    assert fingerprint(found) == fingerprint(Autoencoder(network))
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(found.decode(found.encode(images)), Autoencoder(network).decode(found.encode(images)))


def test_weights_of_an_early_diffusers_are_renamed(tmp_path):
    """As the autoencoder of Stable Diffusion is on the hub."""
    network = kl()
    network.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for name, tensor in load_file(file).items():
        for new, before in names.items():
            name = name.replace(new, before)
        old[name] = tensor
    assert any(".query." in name for name in old)
    save_file(old, file)
    assert fingerprint(load_autoencoder(str(tmp_path))) == fingerprint(Autoencoder(network))


def test_one_of_the_hub_is_fetched_without_code(monkeypatch, tmp_path):
    import huggingface_hub

    tiny().save_pretrained(tmp_path)
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_autoencoder("owner/name").factor == 2
    ((name, patterns),) = asked
    assert name == "owner/name"
    assert all(pattern.endswith((".json", ".safetensors")) for pattern in patterns)

    def fail(name, allow_patterns):
        raise OSError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=r"owner/name does not exist here.*no connection"):
        load_autoencoder("owner/name")


def _change(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


def _pickle(folder):
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04N.")


BAD = {
    "nothing there": (lambda f: (f / "config.json").unlink(), "holds no codec"),
    "another class": (lambda f: _change(f, _class_name="UNet2DModel"), "is for the class 'UNet2DModel'"),
    "pickled": (_pickle, "pickled weights are not read"),
    "other widths": (lambda f: _change(f, latent_channels=3), "do not fit its config.json"),
    "too deep": (lambda f: _change(f, num_encoder_blocks=[1, 60_000]), "whole numbers up to 64"),
    "cut off": (lambda f: (f / "diffusion_pytorch_model.safetensors").write_bytes(b"x"), "cannot be read"),
    "sizes differ": (lambda f: _change(f, upsampling_scaling_factor=4), "does not return images of the size"),
}


@pytest.mark.parametrize("case", BAD)
def test_damaged_and_hostile_codecs_get_one_line(case, tmp_path):
    damage, message = BAD[case]
    tiny().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_autoencoder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_codecs_that_do_not_fit_the_images_are_refused(tmp_path):
    codec = codecs()["tiny"]
    with pytest.raises(InputError, match=r"takes images of 3 channels, and these images have 1.*--channels 3"):
        check_channels(codec, 1, "these images")
    with pytest.raises(InputError, match="a multiple of 2"):
        latent_size(codec, 8, 9)
    with pytest.raises(InputError, match="does not exist"):
        load_autoencoder(str(tmp_path / "nowhere"))


def test_the_fingerprint_is_that_of_weights_and_configuration():
    network, other = tiny(), tiny()
    assert fingerprint(Autoencoder(network)) == fingerprint(Autoencoder(other, Scale((0.0, 0.0), (1.0, 1.0))))
    with torch.no_grad():
        other.decoder.layers[0].bias[0] += 1e-6
    assert fingerprint(Autoencoder(network)) != fingerprint(Autoencoder(other))
