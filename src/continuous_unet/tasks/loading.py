"""Models from disk: run folders, saved pipelines, bare models.

Files may come from anyone. Only safetensors are read, and only known classes are made. What a configuration asks for is
compared with the header of the weights before anything of that size is allocated.
"""

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from continuous_unet.base.errors import InputError
from continuous_unet.models.build import UNETS, build_unet
from continuous_unet.tasks.denoise.pipeline import DenoisingPipeline
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
from continuous_unet.tasks.inpaint.pipeline import InpaintingPipeline
from continuous_unet.tasks.upscale.pipeline import SuperResolutionPipeline

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_LARGEST_JSON_BYTES = 16 * 2**20
_LARGEST = {"layers_per_block": 64, "num_solver_steps": 1_000, "sample_size": 2_048}
"""Of the whole numbers in a configuration, which set how large or deep a model is, or how long it computes."""
_LARGEST_OTHER = 65_536
_LONGEST_LIST = 64
_LIBRARIES = ("continuous_unet", "diffusers")


_RESTORERS: dict[str, Any] = {
    "denoise": DenoisingPipeline,
    "upscale": SuperResolutionPipeline,
    "inpaint": InpaintingPipeline,
}
"""Pipelines by the verb that uses them."""
_PRETRAINED = Path(__file__).parents[1] / "pretrained"
_OPTIONS: dict[str, type] = {
    "sigma_min": float, "sigma_max": float, "sigma_conditioned": bool, "scale": int, "can_sample": bool,
}  # fmt: skip
"""What a pipeline's index may say beside its parts."""


def pretrained_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in _PRETRAINED.glob("*/model_index.json"))


def load_restorer(
    name: str | os.PathLike, task: str, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> Any:
    """Load a model for a restoration verb.

    Args:
        name: one of `pretrained_models()`, or what `load_pipeline` takes. A folder goes before a model of that name.
        task: `"denoise"` (a model trained for it, or any unconditional diffusion model), `"upscale"` or `"inpaint"`
            (any unconditional diffusion model).
        device: where to put it; the CPU if None.
        dtype: of the weights; float32 if None, whatever they were saved as.

    Raises:
        InputError: as `load_pipeline`, and for a model that was trained for something else.
    """
    path = _find(name)
    return _restorer(path, *_load_parts(path), task, name=name, device=device, dtype=dtype)


def load_model(name: str | os.PathLike) -> Any:
    """Load a model as the pipeline of what it was trained for, whatever that is; arguments and errors as above."""
    path = _find(name)
    unet, scheduler, index = _load_parts(path)
    task = _trained_for(index)
    if task == "generation":
        return DiffusionSamplingPipeline(unet, scheduler)
    return _restorer(path, unet, scheduler, index, task, name=name)


def _find(name: str | os.PathLike) -> Path:
    """The folder of a model: a path, or the name of one of the package."""
    path = Path(name)
    if not path.exists() and (_PRETRAINED / path / "model_index.json").is_file() and len(path.parts) == 1:
        return _PRETRAINED / path
    if not path.exists():
        raise InputError(
            f"{name} does not exist; expected a run folder of `cunet train`, a saved model, or one that comes with the "
            f"package ({', '.join(pretrained_models()) or 'none is there'})"
        )
    return path


def _restorer(
    path: Path,
    unet: Any,
    scheduler: Any,
    index: dict[str, Any],
    task: str,
    *,
    name: str | os.PathLike,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    trained_for = _trained_for(index)
    if trained_for != task and not (trained_for == "generation" and task != "upscale"):
        wanted = (
            "super-resolution" if task == "upscale" else "generation" + (" or denoise" if task == "denoise" else "")
        )
        raise InputError(
            f"{name} was trained for {'super-resolution' if trained_for == 'upscale' else trained_for}; expected a "
            f"model of cunet train --task {wanted}"
        )
    config = unet.config
    if trained_for == "generation" and (config.num_class_embeds is not None or config.class_embed_type is not None):
        raise InputError(f"{name} is class-conditional; {task} takes models that know no classes")
    expected = config.out_channels * (2 if task == "upscale" else 1)
    if config.out_channels not in (1, 3) or config.in_channels != expected:
        raise InputError(
            f"{name} has {config.in_channels} channels in and {config.out_channels} out; {task} takes models of grey "
            f"or RGB images{' beside their enlarged ones' if task == 'upscale' else ''}"
        )
    options = {key: index[key] for key in _OPTIONS if key in index}
    _check_options(options, path)
    pipeline = _RESTORERS[task](torch.nn.Module.to(unet, dtype or torch.float32), scheduler, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device=device)


def _trained_for(index: dict[str, Any]) -> str:
    """The task of a saved pipeline, by its class: a verb, or `"generation"`."""
    kinds = {kind.__name__: verb for verb, kind in _RESTORERS.items() if kind is not InpaintingPipeline}
    return kinds.get(str(index.get("_class_name")), "generation")


def _check_options(options: dict[str, Any], path: Path) -> None:
    for name, value in options.items():
        kind = _OPTIONS[name]
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise InputError(f"the index of {path} has {name}={value!r}; expected {kind.__name__}")
    if options.get("scale", 2) not in (2, 3, 4) or not 0 <= options.get("sigma_max", 1) <= 255:
        raise InputError(f"the index of {path} has options beyond what can be ({options})")


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
    unet, scheduler, index = _load_parts(Path(path))
    if _trained_for(index) != "generation":
        verb = _trained_for(index)
        raise InputError(f"{path} was trained for `cunet {verb}`, and makes no images from noise")
    pipeline = DiffusionSamplingPipeline(unet, scheduler)
    return pipeline.to(device=device, dtype=dtype) if device is not None or dtype is not None else pipeline


def _load_parts(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """U-Net, scheduler (None for a denoiser) and index of what `load_pipeline` takes."""
    if not folder.exists():
        raise InputError(f"{folder} does not exist; expected a run folder of `cunet train` or a saved model")
    if (folder / "model" / "model_index.json").is_file():
        folder = folder / "model"
    elif (folder / "config.yaml").is_file():
        raise InputError(f"the run {folder} has no model yet; train it up to its first checkpoint")
    index: dict[str, Any] = {}
    if (folder / "model_index.json").is_file():
        index = _read_json(folder / "model_index.json")
        _check_index(index, folder)
        unet = _load_unet(folder / "unet")
        name = (index.get("scheduler") or [None, None])[1]
        scheduler = None if name is None else _load_scheduler(folder / "scheduler", name)
    elif (folder / "config.json").is_file():
        from diffusers import DDPMScheduler

        unet = _load_unet(folder)
        scheduler = DDPMScheduler()
    else:
        raise InputError(f"{folder} holds no model: expected a run folder, or model_index.json, or config.json in it")
    return unet.eval(), scheduler, index


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if _regular_size(path) > _LARGEST_JSON_BYTES:
            raise ValueError(f"larger than {_LARGEST_JSON_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); the model is damaged or not one") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a configuration: expected a JSON object")
    return content


def _regular_size(path: Path) -> int:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, without end
        raise OSError(f"{path.name} is no regular file")
    return found.st_size


def _check_index(index: dict[str, Any], folder: Path) -> None:
    """Refuse, before anything is imported, an index that names other code than diffusers' and ours."""
    where = folder / "model_index.json"
    parts = ("unet", "scheduler")
    if _trained_for(index) == "denoise" and index.get("scheduler") in (None, [None, None]):
        parts = ("unet",)
    for part in parts:
        entry = index.get(part)
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)):
            raise InputError(f"{where} names no {part}; expected a pipeline of a U-Net and a scheduler")
        if entry[0] not in _LIBRARIES:
            raise InputError(f"{where} wants code from {entry[0]!r}; only {' and '.join(_LIBRARIES)} are allowed")
    if index["unet"][1] not in UNETS:
        raise InputError(f"{where} names the U-Net class {index['unet'][1]!r}; expected {' or '.join(UNETS)}")
    if "scheduler" in parts and not index["scheduler"][1].endswith("Scheduler"):
        raise InputError(f"{where} names {index['scheduler'][1]!r} as scheduler, which is none")


def _load_scheduler(folder: Path, class_name: str) -> Any:
    import diffusers

    scheduler_class = getattr(diffusers, class_name, None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, diffusers.SchedulerMixin)):
        raise InputError(f"diffusers {diffusers.__version__} has no scheduler {class_name!r}, which {folder} asks for")
    config = _read_json(folder / "scheduler_config.json")
    _check_numbers(config, folder / "scheduler_config.json")
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise InputError(f"{folder / 'scheduler_config.json'} has the unknown prediction_type {kind!r}")
    try:
        return scheduler_class.from_config(config)
    except Exception as error:  # whatever a constructor makes of values that nobody has checked
        raise InputError(f"the scheduler in {folder} cannot be made ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _check_numbers(config: dict[str, Any], where: Path) -> None:
    """Refuse numbers beyond any model, before something is made of that size, or computed for so long."""

    def check(name: str, value: Any, longest: int) -> None:
        if isinstance(value, list):
            if len(value) > longest:
                raise InputError(f"{where} has {len(value)} values for {name}; at most {longest} are allowed")
            for item in value:
                check(name, item, longest)
        elif isinstance(value, int):
            largest = _LARGEST.get(name, _LARGEST_OTHER)
            if abs(value) > largest:
                raise InputError(f"{where} has {name}={value}; whole numbers up to {largest} are allowed")
        elif isinstance(value, float) and math.isnan(value):
            raise InputError(f"{where} has {name}={value}, which is no number")

    for name, value in config.items():
        check(name, value, _LARGEST_OTHER if name == "trained_betas" else _LONGEST_LIST)


def _check_header(unet_class: Any, config: dict[str, Any], weights: Path) -> None:
    """Refuse weights that are not what the configuration says: names, shapes and types by the header alone.

    The model is made without memory (on torch's `meta` device). safetensors checks that the header's shapes and offsets
    agree with each other and with the size of the file.
    """
    try:
        _regular_size(weights)
        with safe_open(weights, framework="pt") as file:
            views = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            found = {name: (tuple(view.get_shape()), view.get_dtype()) for name, view in views.items()}
    except FileNotFoundError as error:
        raise InputError(f"{weights} is missing; weights in other files, or pickled ones, are not read") from error
    except (OSError, SafetensorError) as error:
        raise InputError(f"{weights} cannot be read ({_first_line(error)}); it is damaged") from error
    try:
        with torch.device("meta"):
            expected = {name: tuple(t.shape) for name, t in unet_class.from_config(config).state_dict().items()}
    except Exception as error:  # whatever a constructor makes of values that nobody has checked
        raise InputError(f"{weights.parent / 'config.json'} makes no model ({_first_line(error)})") from error
    for name in [*expected, *found]:
        shapes = [str(expected.get(name, "nothing")), str(found[name][0]) if name in found else "nothing"]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the weights in {weights.parent} do not fit its config.json: {name} should be {shapes[0]} and is "
                f"{shapes[1]}"
            )
        if found[name][1] not in ("F16", "BF16", "F32", "F64"):
            raise InputError(f"{weights} has {name} as {found[name][1]}; expected floating point")


def _load_unet(folder: Path) -> Any:
    config = _read_json(folder / "config.json")
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in UNETS:
        raise InputError(f"{folder / 'config.json'} is for the class {name!r}; expected {' or '.join(UNETS)}")
    unet_class: Any = UNETS[name]
    _check_numbers(config, folder / "config.json")
    _check_header(unet_class, config, folder / _WEIGHTS)
    try:
        unet = unet_class.from_pretrained(folder, use_safetensors=True)
    except Exception as error:
        raise InputError(f"the model in {folder} cannot be loaded ({_first_line(error)}); it is damaged") from error
    # Into memory of their own: mapped from the file they are not aligned as usual, which makes kernels round otherwise,
    # and a file that is cut off meanwhile would end the process.
    for parameter in unet.parameters():
        parameter.data = parameter.data.clone()
    spoilt = next((name for name, p in unet.named_parameters() if not bool(p.isfinite().all())), None)
    if spoilt is not None:
        raise InputError(f"the weights in {folder} are not finite ({spoilt}); the model is spoilt")
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
    from continuous_unet.models.presets import PRESETS

    try:
        if name in PRESETS and not Path(name).exists():
            channels = channels or (1 if name == "tiny" else 3)
            size = sample_size or {"base": 64, "ddpm": 64, "tiny": 16}.get(name, 32)
            unet = build_unet(name, sample_size=size, in_channels=channels, out_channels=channels).eval()
        elif not Path(name).exists():
            raise InputError(f"{name} is no file, and no preset ({', '.join(PRESETS)})")
        else:
            unet = _load_parts(Path(name))[0]
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
    if num_steps > _LARGEST["num_solver_steps"]:
        raise InputError(f"solver steps: {num_steps} are more than the {_LARGEST['num_solver_steps']} that are allowed")
    try:
        unet.set_solver(num_steps=num_steps)
    except ValueError as error:
        raise InputError(f"solver steps: {error}") from error
