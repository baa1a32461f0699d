"""What pipelines of pixels and pipelines of latents have in common: a codec, and what is saved with the model."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline

from continuous_unet.codecs.autoencoder import Autoencoder
from continuous_unet.codecs.base import Codec
from continuous_unet.codecs.identity import Pixels
from continuous_unet.tasks.facts import CodecFacts, Facts, load_codec, read_facts, write_facts
from continuous_unet.tasks.network import Network, Pipeline


class CodecPipeline(Pipeline):
    """A pipeline whose U-Net works on pixels, or on the latents of a codec.

    Args:
        unet: a `ContinuousUNet2DModel` or a `UNet2DModel`.
        scheduler: a scheduler of its noise process.
        facts: what is saved with the model, such as the names of its classes.
        codec: what makes images of the latents that the U-Net makes, with their scale; None for a U-Net of pixels.

    Raises:
        InputError: if the facts do not fit the U-Net.
    """

    def __init__(self, unet: Network, scheduler: Any, facts: Facts | None = None, codec: Codec | None = None) -> None:
        super().__init__(unet, scheduler)
        facts = Facts() if facts is None else facts
        self.codec: Codec = Pixels(unet.config.in_channels) if codec is None else codec
        self.facts = replace(facts, codec=CodecFacts.of(codec)) if isinstance(codec, Autoencoder) else facts
        self.facts.check_model(unet.config)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Moves the pipeline as diffusers does; the codec keeps its precision."""
        super().to(*args, **kwargs)
        self.codec.to(self.device)
        return self

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
        """Loads a pipeline as diffusers does; from a folder also its facts."""
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        folder = Path(pretrained_model_name_or_path)
        facts = read_facts(folder)
        return cls(pipeline.unet, pipeline.scheduler, facts, load_codec(folder, facts))

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:  # type: ignore[override]
        """Saves the parts as a `DDPMPipeline`, which has the same parts, with the facts and the codec beside them.

        `DiffusionPipeline.from_pretrained` looks a pipeline's class up inside diffusers, so a folder that named ours
        could not be loaded by it. `from_pretrained` of our classes reads the same folder.
        """
        DDPMPipeline(cast(UNet2DModel, self.unet), self.scheduler).save_pretrained(save_directory, **kwargs)
        write_facts(Path(save_directory), self.facts)
        if isinstance(self.codec, Autoencoder):
            self.codec.save_pretrained(Path(save_directory) / "codec")
