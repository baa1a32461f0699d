"""Training on latents: the codec of a run, and the latents of its images."""

from dataclasses import replace
from pathlib import Path

from continuous_unet.base.errors import InputError
from continuous_unet.base.processes import Processes
from continuous_unet.codecs.autoencoder import Autoencoder, fingerprint, load_autoencoder
from continuous_unet.codecs.base import check_channels
from continuous_unet.codecs.stored import StoredLatents
from continuous_unet.data import ImageDataset, TrainingData
from continuous_unet.tasks.base import Task
from continuous_unet.tasks.facts import CodecFacts, read_facts
from continuous_unet.tasks.packaged import is_model
from continuous_unet.tasks.saved import model_folder
from continuous_unet.training.config import TrainConfig
from continuous_unet.training.folder import RunFolder


def open_codec(config: TrainConfig, folder: RunFolder, resume: bool) -> Autoencoder | None:
    """Returns the codec of a run, without a scale; None for a run on pixels. A resumed run has a copy of it.

    Raises:
        InputError: if it cannot be loaded, or the model to start from was trained with another codec.
    """
    name = config.data.codec
    if name is None:
        if config.task.name == "generate" and _start(config) is not None:
            raise InputError(
                f"the model {config.model.start_from} to start from works on latents; give its codec too (--codec "
                f"{config.model.start_from})"
            )
        return None
    kept = folder.path / "codec"
    codec = load_autoencoder(str(kept) if resume and kept.exists() else name)
    start = _start(config)
    if config.model.start_from is not None and (start is None or start.sha256 != fingerprint(codec)):
        other = "pixels" if start is None else "the latents of another codec"
        raise InputError(
            f"the model {config.model.start_from} to start from was trained on {other}; give the codec that it was "
            "trained with, if there is one, or leave --start-from out"
        )
    return codec


def _start(config: TrainConfig) -> CodecFacts | None:
    """Returns what is known of the codec of the model that a run starts from."""
    name = config.model.start_from
    return read_facts(model_folder(Path(name))).codec if name and is_model(name) else None


def of_latents(dataset: ImageDataset, codec: Autoencoder) -> ImageDataset:
    """Returns a data set whose items are latents, which `provide_latents` still has to make.

    Raises:
        InputError: if the codec does not take images of this kind.
    """
    if dataset.preparation.random_crop:
        raise InputError("--random-crop cuts other pieces each time, and latents are made once; leave it out")
    check_channels(codec, dataset.report.channels, "these images")
    return replace(dataset, stored=StoredLatents(codec, dataset, dataset.preparation.random_flip))


def provide_latents(
    config: TrainConfig, folder: RunFolder, task: Task, data: TrainingData, codec: Autoencoder, processes: Processes
) -> None:
    """Makes the latents that are not there yet, measures their scale, and gives the task the codec with this scale.

    Raises:
        InputError: if the latents cannot be made or written, or are not those of these images.
    """
    assert isinstance(data, ImageDataset)
    stored = data.stored
    assert isinstance(stored, StoredLatents)
    kept = folder.path / "codec"

    def make() -> None:
        if not kept.exists():
            codec.save_pretrained(kept)
        stored.make(where, progress=True)

    where = folder.path / "latents" if config.data.latents is None else Path(config.data.latents)
    processes.by_main(make)
    stored.open(where)
    start = _start(config)
    stored.scale = stored.measure(data.indices) if start is None else start.scale()
    task.codec = codec.scaled(stored.scale)
