"""The options of training a codec. Imports no torch."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import option
from continuous_unet.diffusion.options import ProcessOptions
from continuous_unet.tasks.training_options import TrainingOptions

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class CodecTraining(TrainingOptions):
    """Options of training an autoencoder."""

    name = "codec"
    takes_preset = False

    autoencoder: Literal["tiny", "kl"] = option(
        "tiny", "tiny: convolutions alone, fast (AutoencoderTiny); kl: with norms, slower (AutoencoderKL)"
    )
    factor: int = option(4, "how many times smaller the sides of the latents are", choices=(2, 4, 8, 16))
    latent_channels: int = option(4, "number of channels of the latents", between=(1, 64))
    widths: list[int] = option(
        [32], "number of channels of each level, the full resolution first, or one number for all", at_least=1
    )
    blocks: list[int] = option(
        [1], "number of residual blocks of each level, the full resolution first, or one number for all", at_least=0
    )
    latent_noise: float = option(
        0.1,
        "standard deviation of the noise that training adds to the latents of a tiny autoencoder, so that similar "
        "latents mean similar images; kl predicts its own",
        between=(0, 10),
    )
    kl_weight: float = option(
        1e-3, "weight of the latents' divergence from the standard normal, which keeps them bounded", between=(0, 1e6)
    )
    loss: Literal["squared", "absolute"] | None = option(
        None, "error that training minimises: absolute or squared (default: absolute)"
    )

    def validate(self) -> "Self":
        super().validate()
        if not self.widths or not self.blocks:
            raise InputError("--widths and --blocks need a number, or one for each level")
        return self

    def check_process(self, process: ProcessOptions) -> None:
        """Refuses every choice of a noise process: an autoencoder is trained without one."""
        for field in fields(process):
            if getattr(process, field.name) != field.default:
                flag = (field.metadata.get("flat") or field.name).replace("_", "-")
                raise InputError(
                    f"--{flag} is for diffusion models, and --task codec trains an autoencoder; leave it out"
                )
