"""Models from disk: run folders, saved pipelines, bare models.

Only safetensors are read, and only known classes are made.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch

from continuous_unet.errors import InputError
from continuous_unet.tasks.generation import DiffusionSamplingPipeline

_UNETS = ("ContinuousUNet2DModel", "UNet2DModel")
_LIBRARIES = ("continuous_unet", "diffusers")


def load_pipeline(
    path: str | os.PathLike, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> DiffusionSamplingPipeline:
    """Load what can be sampled from.

    Args:
        path: a run folder of `cunet train`, a saved pipeline (`model_index.json`), or a bare model (`config.json` and
            safetensors; it gets the linear noise schedule of DDPM).
        device: where to put it; where it was loaded (the CPU) if None.
        dtype: of the weights; as saved if None.

    Raises:
        InputError: if there is nothing to load, or a file is damaged, or names a class that is not ours or diffusers'.
    """
    folder = Path(path)
    if not folder.exists():
        raise InputError(f"{folder} does not exist; expected a run folder of `cunet train` or a saved model")
    if (folder / "model" / "model_index.json").is_file():
        folder = folder / "model"
    elif (folder / "config.yaml").is_file():
        raise InputError(f"the run {folder} has no model yet; train it up to its first checkpoint")
    if (folder / "model_index.json").is_file():
        index = _read_json(folder / "model_index.json")
        _check_index(index, folder)
        unet = _load_unet(folder / "unet")
        scheduler = _load_scheduler(folder / "scheduler", index["scheduler"][1])
    elif (folder / "config.json").is_file():
        from diffusers import DDPMScheduler

        unet = _load_unet(folder)
        scheduler = DDPMScheduler()
    else:
        raise InputError(f"{folder} holds no model: expected a run folder, or model_index.json, or config.json in it")
    pipeline = DiffusionSamplingPipeline(unet.eval(), scheduler)
    return pipeline.to(device=device, dtype=dtype) if device is not None or dtype is not None else pipeline


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); the model is damaged or not one") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a configuration: expected a JSON object")
    return content


def _check_index(index: dict[str, Any], folder: Path) -> None:
    """Refuse, before anything is imported, an index that names other code than diffusers' and ours."""
    where = folder / "model_index.json"
    for part in ("unet", "scheduler"):
        entry = index.get(part)
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)):
            raise InputError(f"{where} names no {part}; expected a pipeline of a U-Net and a scheduler")
        if entry[0] not in _LIBRARIES:
            raise InputError(f"{where} wants code from {entry[0]!r}; only {' and '.join(_LIBRARIES)} are allowed")
    if index["unet"][1] not in _UNETS:
        raise InputError(f"{where} names the U-Net class {index['unet'][1]!r}; expected {' or '.join(_UNETS)}")
    if not index["scheduler"][1].endswith("Scheduler"):
        raise InputError(f"{where} names {index['scheduler'][1]!r} as scheduler, which is none")


def _load_scheduler(folder: Path, class_name: str) -> Any:
    import diffusers

    scheduler_class = getattr(diffusers, class_name, None)
    if scheduler_class is None:
        raise InputError(f"diffusers {diffusers.__version__} has no scheduler {class_name!r}, which {folder} asks for")
    _read_json(folder / "scheduler_config.json")
    return scheduler_class.from_pretrained(folder)


def _load_unet(folder: Path) -> Any:
    config = _read_json(folder / "config.json")
    name = config.get("_class_name")
    if name not in _UNETS:
        raise InputError(f"{folder / 'config.json'} is for the class {name!r}; expected {' or '.join(_UNETS)}")
    if name == "ContinuousUNet2DModel":
        from continuous_unet.models.continuous_unet import ContinuousUNet2DModel as UNet
    else:
        from diffusers import UNet2DModel as UNet  # type: ignore[assignment]
    try:
        unet, info = UNet.from_pretrained(folder, use_safetensors=True, output_loading_info=True)  # type: ignore[misc]
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"the model in {folder} cannot be loaded ({reason}); it is damaged or incomplete") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"]]
    if wrong:
        raise InputError(f"the weights in {folder} do not fit its config.json ({wrong[0]} and {len(wrong) - 1} more)")
    return unet


def load_model_or_preset(
    name: str, sample_size: int | None = None, channels: int | None = None, solver_steps: int | None = None
) -> Any:
    """The U-Net of a run or a saved model, or a new one of a preset.

    Args:
        name: a preset, or what `load_pipeline` takes. A folder goes before a preset of the same name.
        sample_size: side of a preset's images; 64 for `base` and `ddpm`, 16 for `tiny`, 32 for the others if None.
        channels: of a preset's images; 1 for `tiny`, 3 for the others if None.
        solver_steps: solver steps in each block, if they are to be changed.

    Raises:
        InputError: as `load_pipeline`, and for settings that do not fit.
    """
    from continuous_unet.models.build import build_unet
    from continuous_unet.models.presets import PRESETS

    try:
        if name in PRESETS and not Path(name).exists():
            channels = channels or (1 if name == "tiny" else 3)
            size = sample_size or {"base": 64, "ddpm": 64, "tiny": 16}.get(name, 32)
            unet = build_unet(name, sample_size=size, in_channels=channels, out_channels=channels).eval()
        elif not Path(name).exists():
            raise InputError(f"{name} is no file, and no preset ({', '.join(PRESETS)})")
        else:
            unet = load_pipeline(name).unet
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
    if solver_steps is not None:
        set_solver_steps(unet, solver_steps)
    return unet


def set_solver_steps(unet: Any, num_steps: int) -> None:
    """Change the number of solver steps of a continuous U-Net.

    Raises:
        InputError: for another model, or a number that cannot be.
    """
    if not hasattr(unet, "set_solver"):
        raise InputError(f"solver steps are for continuous U-Nets, and this model is a {type(unet).__name__}")
    try:
        unet.set_solver(num_steps=num_steps)
    except ValueError as error:
        raise InputError(f"solver steps: {error}") from error
