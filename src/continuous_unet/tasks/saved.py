"""Reads the files of saved models without trusting them.

Files may come from anyone. Only safetensors are read, and only known classes are made. A configuration is compared with
the headers of the weights before anything of that size is allocated.
"""

import contextlib
import json
import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.results import Json
from continuous_unet.models.build import UNETS
from continuous_unet.tasks.registry import TASKS

_WEIGHTS = "diffusion_pytorch_model"
_LARGEST_JSON_BYTES = 16 * 2**20
LARGEST = {"layers_per_block": 64, "num_solver_steps": 1_000, "sample_size": 2_048}
"""Upper limits for integers in a configuration, so that a hostile file cannot allocate, or compute, without bound."""
_LARGEST_OTHER = 65_536
_LONGEST_LIST = 64
_MOST_SHARDS = 1_000
_MAIN_FILE = re.compile(rf"{_WEIGHTS}(?:\.(\w+))?\.safetensors|{_WEIGHTS}\.safetensors\.index(?:\.(\w+))?\.json")
"""The file of the weights, or the index of their shards, and the variant that they are."""
_SHARD = re.compile(rf"{_WEIGHTS}[\w.-]*\.safetensors")
_LIBRARIES = ("continuous_unet", "diffusers")


def trained_for(index: Json) -> str:
    """Returns the task of a saved pipeline, by its class; those of diffusers generate."""
    classes = {entry.pipeline.partition(":")[2]: name for name, entry in TASKS.items() if entry.training}
    return classes.get(str(index.get("_class_name")), "generate")


def model_folder(folder: Path) -> Path:
    """Returns the folder of the model of a run, or of a saved model."""
    if not folder.exists():
        raise InputError(f"{folder} does not exist; expected a run folder of `cunet train` or a saved model")
    if (folder / "model" / "model_index.json").is_file():
        return folder / "model"
    if (folder / "config.yaml").is_file():
        raise InputError(f"the run {folder} has no model yet; train it up to its first checkpoint")
    return folder


def read_index(folder: Path) -> Json:
    """Returns the index of a saved pipeline; empty for a bare model.

    Raises:
        InputError: before anything is imported, for an index that names other code than diffusers' and ours.
    """
    where = folder / "model_index.json"
    index = _read_json(where) if where.is_file() else {}
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
        unet = _load_unet(folder / "unet", variant)
        name = (index.get("scheduler") or [None, None])[1]
        return unet, None if name is None else _load_scheduler(folder / "scheduler", name), index
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no model: expected a run folder, or model_index.json, or config.json in it")
    return _load_unet(folder, variant), DDPMScheduler(), {}


def _read_json(path: Path) -> Json:
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
    if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait without end
        raise OSError(f"{path.name} is no regular file")
    return found.st_size


@contextlib.contextmanager
def _explained(problem: str) -> Iterator[None]:
    """Inside, whatever a constructor makes of values that nobody has checked is raised as an InputError."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{problem} ({first_line(error)})") from error


def _load_scheduler(folder: Path, class_name: str) -> Any:
    import diffusers

    scheduler_class = getattr(diffusers, class_name, None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, diffusers.SchedulerMixin)):
        raise InputError(f"diffusers {diffusers.__version__} has no scheduler {class_name!r}, which {folder} asks for")
    config = _read_json(folder / "scheduler_config.json")
    _check_numbers(config, folder / "scheduler_config.json")
    with _explained(f"the scheduler in {folder} cannot be made"):
        return scheduler_class.from_config(config)


def _check_numbers(config: Json, where: Path) -> None:
    """Refuses numbers beyond those of any model, before anything is allocated or computed by them."""

    def check(name: str, value: object, longest: int) -> None:
        if isinstance(value, list):
            if len(value) > longest:
                raise InputError(f"{where} has {len(value)} values for {name}; at most {longest} are allowed")
            for item in value:
                check(name, item, longest)
        elif isinstance(value, int):
            largest = LARGEST.get(name, _LARGEST_OTHER)
            if abs(value) > largest:
                raise InputError(f"{where} has {name}={value}; whole numbers up to {largest} are allowed")
        elif isinstance(value, float) and math.isnan(value):
            raise InputError(f"{where} has {name}={value}, which is not a number")

    for name, value in config.items():
        check(name, value, _LARGEST_OTHER if name == "trained_betas" else _LONGEST_LIST)


def _find_weights(folder: Path, variant: str | None) -> list[Path]:
    """Returns the files of the weights, of which there are several if they are sharded; no index names other folders.

    Raises:
        InputError: if there are none of the variant, or a damaged index of shards.
    """
    files = sorted(folder.iterdir(), key=lambda path: path.suffix != ".json") if folder.is_dir() else []
    known = {(match[1] or match[2] or ""): path for path in files if (match := _MAIN_FILE.fullmatch(path.name))}
    if variant is None and "" not in known and len(known) == 1:
        variant = next(iter(known))
    main = known.get(variant or "")
    if main is None:
        others = ", ".join(sorted(filter(None, known)))
        remedy = f"the variants {others} exist, name one with --variant" if others else "pickled weights are not read"
        raise InputError(f"{folder} has no {f'{variant} ' if variant else ''}weights in safetensors files; {remedy}")
    if main.suffix != ".json":
        return [main]
    shards = _read_json(main).get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else set()
    if not 0 < len(names) <= _MOST_SHARDS or not all(_SHARD.fullmatch(name) for name in names):
        raise InputError(f"{main} does not name shards of weights in its folder; it is damaged")
    return [folder / name for name in sorted(names)]


def _check_headers(unet_class: Any, config: Json, files: list[Path]) -> None:
    """Refuses weights that are not what the configuration says: names, shapes and types by the headers alone.

    The model is made without memory (on torch's `meta` device). safetensors checks that a header's shapes and offsets
    agree with each other and with the size of the file.
    """
    found = dict[str, tuple[str, str]]()
    for weights in files:
        try:
            _regular_size(weights)
            with safe_open(weights, framework="pt") as file:
                views = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                found |= {name: (str(tuple(view.get_shape())), view.get_dtype()) for name, view in views.items()}
        except FileNotFoundError as error:
            raise InputError(f"{weights} is missing; the model is incomplete") from error
        except (OSError, SafetensorError) as error:
            raise InputError(f"{weights} cannot be read ({first_line(error)}); it is damaged") from error
    folder = files[0].parent
    with _explained(f"{folder / 'config.json'} makes no model"), torch.device("meta"):
        expected = {name: str(tuple(t.shape)) for name, t in unet_class.from_config(config).state_dict().items()}
    for name in [*expected, *found]:
        wanted, (shape, dtype) = expected.get(name, "nothing"), found.get(name, ("nothing", ""))
        if wanted != shape:
            raise InputError(f"the weights in {folder} do not fit its config.json: {name} is {shape}, not {wanted}")
        if dtype not in ("F16", "BF16", "F32", "F64"):
            raise InputError(f"the weights in {folder} have {name} as {dtype}; expected floating point")


def _load_unet(folder: Path, variant: str | None) -> Any:
    config = _read_json(folder / "config.json")
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in UNETS:
        raise InputError(f"{folder / 'config.json'} is for the class {name!r}; expected {' or '.join(UNETS)}")
    unet_class: Any = UNETS[name]
    _check_numbers(config, folder / "config.json")
    files = _find_weights(folder, variant)
    _check_headers(unet_class, config, files)
    with _explained(f"the model in {folder} is damaged and cannot be loaded"):
        with torch.random.fork_rng(devices=[]):  # its first weights are random numbers that nobody misses
            unet = unet_class.from_config(config).eval()
        # The weights are copied into memory of their own. Mapped from the file, they are not aligned as usual, which
        # makes kernels round differently, and a file that is cut off meanwhile would end the process.
        for file in files:
            unet.load_state_dict(load_file(file), strict=False)  # all names were checked
    bad = next((name for name, p in unet.named_parameters() if not bool(p.isfinite().all())), None)
    if bad is not None:
        raise InputError(f"the weights in {folder} are not finite ({bad}); the model is damaged")
    return unet
