"""The codec of a model of latents, in an export: two graphs beside the network, which decode and encode."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.codecs.autoencoder import Autoencoder
from continuous_unet.codecs.base import Codec, latent_size
from continuous_unet.deploy.formats import FORMATS, load_part_writer
from continuous_unet.deploy.network import LARGEST_TRACED_BATCH, ExportNetwork, explained
from continuous_unet.deploy.options import TOLERANCES, ExportOptions
from continuous_unet.deploy.parity import check_error, error_of

PARTS = {"decoder": ("latents", "images"), "encoder": ("images", "latents")}
"""The names of the input and the output of each graph."""


class CodecPart(nn.Module):
    """One direction of a codec as a network, with the scale of the latents in it."""

    def __init__(self, codec: Autoencoder, part: str) -> None:
        super().__init__()
        self.network = codec.network
        self.function: Callable[[Tensor], Tensor] = codec.decode if part == "decoder" else codec.encode

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)

    def program(self, example: Tensor, multiple: int, any_size: bool) -> ExportedProgram:
        """Returns torch's exported program, for up to 63 images.

        Args:
            example: input of the size that is accepted.
            multiple: the number that sides are a multiple of, if other sizes are accepted too.
            any_size: whether they are.

        Raises:
            InputError: if it cannot be traced.
        """
        axes = {0: Dim("batch", min=1, max=LARGEST_TRACED_BATCH)}
        if any_size:
            axes |= {2: multiple * Dim("height", min=1), 3: multiple * Dim("width", min=1)}
        with explained("be exported with its codec"), torch.no_grad():
            return torch.export.export(self, (example,), dynamic_shapes=({**axes},), strict=False)


def for_codec(codec: Codec, options: ExportOptions) -> ExportOptions:
    """Returns the options of the network of a model with this codec: sizes of images become those of latents.

    Raises:
        InputError: for what is not possible with a codec, by name.
    """
    if not isinstance(codec, Autoencoder):
        return options
    if not FORMATS[options.format].parts:
        able = [name for name, found in FORMATS.items() if found.parts]
        raise InputError(
            f"--format {options.format} holds the network alone, and this model needs its codec too; export it to "
            f"{' or '.join(able)}"
        )
    if options.precision == "int8":
        raise InputError("--precision int8 is not for models of latents; export them in fp16 or fp32")
    shape = options.shape()
    if shape is None:
        return options
    height, width = latent_size(codec, *shape[1:])
    return replace(options, static_shape=f"{shape[0]}x{height}x{width}")


def write_codec(codec: Codec, network: ExportNetwork, folder: Path, options: ExportOptions) -> tuple[list[str], Json]:
    """Writes the decoder and the encoder of a model of latents, and compares both files with PyTorch.

    Returns:
        The files, and the entry `codec` of `export.json`; nothing for a model of pixels.

    Raises:
        InputError: if one cannot be traced.
        ParityError: if a file's error against PyTorch is above the tolerance.
    """
    write = load_part_writer(options.format)
    if not isinstance(codec, Autoencoder) or write is None:
        return [], {}
    own = Autoencoder(copy.deepcopy(codec.network).to("cpu", torch.float32).eval(), codec.scale)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, own.latent_channels, network.height, network.width, generator=generator)
    values = {"decoder": latents, "encoder": own.decode(latents).clamp(-1, 1)}
    entry: Json = {"channels": own.channels, "factor": own.factor}
    files: list[str] = []
    for part, names in PARTS.items():
        module, example = CodecPart(own, part), values[part]
        multiple = network.size_multiple_of * (1 if part == "decoder" else own.factor)
        written = write(module.program(example, multiple, network.any_size), folder, f"codec_{part}", *names)
        opened = written.open(folder / written.files[0], None, names[:1])
        error = max(error_of(opened(x.numpy()), module(x).numpy()) for x in (example, example[:1]))
        check_error(error, TOLERANCES["fp32"], f"{part} of the codec")
        entry |= {part: written.files[0], f"{part}_error": error}
        files += written.files
    return files, entry
