"""Reads the files of saved models without trusting them: only known classes are made, and only safetensors are read."""

from pathlib import Path
from typing import Any

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.models.build import UNETS
from continuous_unet.models.saved import check_numbers, explained, load_network, read_json
from continuous_unet.tasks.packaged import find_model
from continuous_unet.tasks.registry import TASKS

_LIBRARIES = ("continuous_unet", "diffusers")


def trained_for(index: Json) -> str:
    """Returns the task of a saved pipeline, by its class; those of diffusers generate."""
    # of the tasks that save the same pipeline the first one counts: a distilled model generates as others do
    entries = [(name, entry) for name, entry in reversed(TASKS.items()) if entry.training and entry.pipeline]
    classes = {entry.pipeline.partition(":")[2]: name for name, entry in entries}
    return classes.get(str(index.get("_class_name")), "generate")


def model_folder(folder: Path) -> Path:
    """Returns the folder of the model of a run, of a saved model, or of a model of the package, by its name."""
    folder = find_model(folder)
    if (folder / "model" / "model_index.json").is_file():
        return folder / "model"
    if (folder / "model" / "config.json").is_file():
        raise InputError(f"the run {folder} holds a codec, and no model of images; use it with `cunet train --codec`")
    if (folder / "config.yaml").is_file():
        raise InputError(f"the run {folder} has no model yet; train it up to its first checkpoint")
    return folder


def read_index(folder: Path) -> Json:
    """Returns the index of a saved pipeline; empty for a bare model.

    Raises:
        InputError: before anything is imported, for an index that names other code than diffusers' and ours.
    """
    where = folder / "model_index.json"
    index = read_json(where) if where.is_file() else {}
    blind = trained_for(index) == "denoise" and index.get("scheduler") in (None, [None, None])
    for part in () if not index else ("unet",) if blind else ("unet", "scheduler"):
        entry = index.get(part)
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)):
            raise InputError(f"{where} names no {part}; expected a pipeline of a U-Net and a scheduler")
        if entry[0] not in _LIBRARIES:
            raise InputError(f"{where} wants code from {entry[0]!r}; only {' and '.join(_LIBRARIES)} are allowed")
        if part == "unet" and entry[1] not in UNETS:
            raise InputError(f"{where} names the U-Net class {entry[1]!r}; expected {' or '.join(UNETS)}")
        if part == "scheduler" and not entry[1].endswith("Scheduler"):
            raise InputError(f"{where} names {entry[1]!r} as scheduler, which is not one")
    return index


def load_parts(path: Path, variant: str | None = None) -> tuple[Any, Any, Json]:
    """Returns U-Net, scheduler (None for a denoiser) and index of what `load_pipeline` takes."""
    from diffusers import DDPMScheduler

    folder = model_folder(path)
    index = read_index(folder)
    if index:
        unet = load_network(folder / "unet", UNETS, variant)
        name = (index.get("scheduler") or [None, None])[1]
        return unet, None if name is None else _load_scheduler(folder / "scheduler", name), index
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no model: expected a run folder, or model_index.json, or config.json in it")
    return load_network(folder, UNETS, variant), DDPMScheduler(), {}


def _load_scheduler(folder: Path, class_name: str) -> Any:
    import diffusers

    scheduler_class = getattr(diffusers, class_name, None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, diffusers.SchedulerMixin)):
        raise InputError(f"diffusers {diffusers.__version__} has no scheduler {class_name!r}, which {folder} asks for")
    config = read_json(folder / "scheduler_config.json")
    check_numbers(config, folder / "scheduler_config.json")
    with explained(f"the scheduler in {folder} cannot be made"):
        return scheduler_class.from_config(config)
