"""diffusers' autoencoders as codecs: `AutoencoderTiny`, `AutoencoderKL` and `AutoencoderDC`."""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.files import replace_folder
from continuous_unet.codecs.base import Scale
from continuous_unet.models.saved import load_network, read_json

AUTOENCODERS: dict[str, Any] = {kind.__name__: kind for kind in (AutoencoderTiny, AutoencoderKL, AutoencoderDC)}
"""The classes that may be made and loaded, by the name that a configuration gives as `_class_name`."""
_FILES = ["*.json", "*.safetensors", "vae/*.json", "vae/*.safetensors"]
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Parts of the attention's names in weights that an early diffusers saved, and their present names."""


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A network that encodes and decodes, with the scale of its latents.

    Args:
        network: an autoencoder of diffusers, of a class in `AUTOENCODERS`, in evaluation mode.
        scale: the scale of its latents; they are left as the network makes them if None.
    """

    network: Any
    scale: Scale | None = None

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return int(self.network.config.in_channels)

    @property
    def latent_channels(self) -> int:
        """Number of channels of the latents."""
        return int(self.network.config.latent_channels)

    @property
    def factor(self) -> int:
        """How many times smaller the sides of the latents are than those of the images."""
        return downscaling_factor(self.network)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.network.parameters()).device

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Returns the latents `(B, c, h, w)` of images `(B, C, H, W)` in [-1, 1]; float32.

        Those of an `AutoencoderKL` are the means of their distributions.
        """
        latents = latents_of(self.network.encode(images.to(self.device, torch.float32)))
        return latents if self.scale is None else self.scale.apply(latents)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Returns the images `(B, C, H, W)`, about in [-1, 1], of latents `(B, c, h, w)`; float32."""
        latents = latents.to(self.device, torch.float32)
        return self.network.decode(latents if self.scale is None else self.scale.undo(latents)).sample

    def to(self, device: torch.device | str) -> None:
        """Moves the network to a device."""
        self.network.to(device)

    def save_pretrained(self, folder: Path) -> None:
        """Writes the network as diffusers does, whole or not at all; the scale is not a part of it."""
        replace_folder(folder, self.network.save_pretrained)

    def scaled(self, scale: Scale) -> "Autoencoder":
        """Returns the same codec with the scale of its latents."""
        return replace(self, scale=scale)


def latents_of(output: Any) -> Tensor:
    """Returns the latents `(B, c, h, w)` in what `encode` of an autoencoder returned; for a distribution its mean."""
    if isinstance(output, AutoencoderKLOutput):
        return output.latent_dist.mode()
    return output.latents if isinstance(output, AutoencoderTinyOutput) else output.latent


def downscaling_factor(network: nn.Module) -> int:
    """Returns how many times smaller the sides of the latents are than those of the images."""
    config: Any = network.config
    if isinstance(network, AutoencoderKL):
        return 2 ** (len(config.block_out_channels) - 1)
    blocks = config.num_encoder_blocks if isinstance(network, AutoencoderTiny) else config.encoder_block_out_channels
    return 2 ** (len(blocks) - 1)


def load_autoencoder(name: str) -> Autoencoder:
    """Loads the autoencoder of a run, of a folder, or of a model on the Hugging Face hub; without a scale.

    Args:
        name: a run folder of `cunet train --task codec`, a folder with `config.json` and safetensors, a saved pipeline
            that has one as its part `vae` or `codec`, or the name of such a repository on the hub, `OWNER/NAME`.

    Raises:
        InputError: if there is none, or a file is damaged, or it does not work.
    """
    folder = _find(name)
    tiny = read_json(folder / "config.json").get("_class_name") == AutoencoderTiny.__name__
    added = ("block_out_channels",) if tiny else ()
    network = load_network(folder, AUTOENCODERS, rename=_present_name, made_by_class=added)
    network.requires_grad_(False)
    codec = Autoencoder(network)
    side = 2 * codec.factor
    images = torch.zeros(1, codec.channels, side, side)
    try:
        shapes = (tuple(codec.encode(images).shape), tuple(codec.decode(codec.encode(images)).shape))
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"the codec {name} does not work ({first_line(error)}); it is damaged") from error
    if shapes != ((1, codec.latent_channels, 2, 2), (1, codec.channels, side, side)):
        raise InputError(f"the codec {name} does not return images of the size and channels that it is given")
    return codec


def fingerprint(codec: Autoencoder) -> str:
    """Returns the SHA-256 of a codec's weights and configuration; the scale is left out."""
    digest = hashlib.sha256(type(codec.network).__name__.encode())
    entries = {key: _as_lists(value) for key, value in sorted(codec.network.config.items()) if not key.startswith("_")}
    digest.update(repr(entries).encode())
    for name, tensor in sorted(codec.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _as_lists(value: Any) -> Any:
    """Returns tuples as lists, which they are in a saved configuration."""
    return [_as_lists(item) for item in value] if isinstance(value, (tuple, list)) else value


def _find(name: str) -> Path:
    """Returns the folder that holds the autoencoder's `config.json`."""
    path = Path(name)
    if not path.exists():
        path = _downloaded(name)
    places = [path, path / "model", path / "codec", path / "model" / "codec", path / "vae"]
    if (path / "model_index.json").is_file():  # a pipeline, whose own config.json would be that of something else
        places = places[2:]
    found = next((place for place in places if (place / "config.json").is_file()), None)
    if found is not None:
        return found
    if (path / "config.yaml").is_file() and not (path / "model").exists():
        raise InputError(f"the run {path} has no model yet; train it up to its first checkpoint")
    raise InputError(
        f"{path} holds no codec: expected a run of `cunet train --task codec`, or the config.json of one of "
        f"{', '.join(AUTOENCODERS)} with its safetensors"
    )


def _downloaded(name: str) -> Path:
    """Returns the local copy of a repository of the hub; only configurations and safetensors are fetched."""
    expected = "a run of `cunet train --task codec`, a folder with an autoencoder, or OWNER/NAME on the hub"
    if not _HUB_NAME.fullmatch(name):
        raise InputError(f"the codec {name} does not exist; expected {expected}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:
        raise InputError(
            f"the codec {name} does not exist here, and cannot be fetched from the hub ({first_line(error)}); expected "
            f"{expected}"
        ) from error


def _present_name(name: str) -> str:
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name
