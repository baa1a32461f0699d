"""Reads the configurations and weights of saved networks without trusting them.

Files may come from anyone. Only safetensors are read, and only the classes that the caller names are made. A
configuration is compared with the headers of the weights before anything of that size is allocated.
"""

import contextlib
import json
import math
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.results import Json

_WEIGHTS = "diffusion_pytorch_model"
_LARGEST_JSON_BYTES = 16 * 2**20
LARGEST = {
    "layers_per_block": 64,
    "layers": 64,
    "num_solver_steps": 1_000,
    "sample_size": 2_048,
    **dict.fromkeys(("num_encoder_blocks", "num_decoder_blocks", "upsampling_scaling_factor"), 64),
    **dict.fromkeys(("encoder_layers_per_block", "decoder_layers_per_block"), 64),
}
"""Upper limits for integers in a configuration, so that a hostile file cannot allocate, or compute, without bound."""
_LARGEST_OTHER = 65_536
_LARGEST_FLOAT = 1e30
"""The largest finite number; schedulers have infinite ones."""
_LONGEST_LIST = 64
_MOST_SHARDS = 1_000
_MAIN_FILE = re.compile(rf"{_WEIGHTS}(?:\.(\w+))?\.safetensors|{_WEIGHTS}\.safetensors\.index(?:\.(\w+))?\.json")
"""The file of the weights, or the index of their shards, and the variant that they are."""
_SHARD = re.compile(rf"{_WEIGHTS}[\w.-]*\.safetensors")


def read_json(path: Path) -> Json:
    """Returns the object in a JSON file; raises InputError if it is missing, damaged, too large or something else."""
    try:
        if _regular_size(path) > _LARGEST_JSON_BYTES:
            raise ValueError(f"larger than {_LARGEST_JSON_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}); the file is damaged, or this is not a saved model"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a configuration: expected a JSON object")
    return content


def _regular_size(path: Path) -> int:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait without end
        raise OSError(f"{path.name} is not a regular file")
    return found.st_size


@contextlib.contextmanager
def explained(problem: str) -> Iterator[None]:
    """Inside, whatever a constructor makes of values that nobody has checked is raised as an InputError."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{problem} ({first_line(error)})") from error


def check_numbers(config: Json, where: Path) -> None:
    """Refuses numbers beyond those of any model, before anything is allocated or computed by them."""

    def check(name: str, value: object, longest: int) -> None:
        if isinstance(value, list):
            if len(value) > longest:
                raise InputError(f"{where} has {len(value)} values for {name}; at most {longest} are allowed")
            for item in value:
                check(name, item, longest)
        elif isinstance(value, dict):
            for key, item in value.items():
                check(str(key), item, longest)
        elif isinstance(value, int):
            largest = LARGEST.get(name, _LARGEST_OTHER)
            if abs(value) > largest:
                raise InputError(f"{where} has {name}={value}; whole numbers up to {largest} are allowed")
        elif isinstance(value, float) and math.isnan(value):
            raise InputError(f"{where} has {name}={value}, which is not a number")
        elif isinstance(value, float) and _LARGEST_FLOAT < abs(value) < math.inf:
            raise InputError(f"{where} has {name}={value}; numbers up to {_LARGEST_FLOAT:g} are allowed")

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
    shards = read_json(main).get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else set()
    if not 0 < len(names) <= _MOST_SHARDS or not all(_SHARD.fullmatch(name) for name in names):
        raise InputError(f"{main} does not name shards of weights in its folder; it is damaged")
    return [folder / name for name in sorted(names)]


def _check_headers(network_class: Any, config: Json, files: list[Path], rename: Callable[[str], str]) -> None:
    """Refuses weights that are not what the configuration says: names, shapes and types by the headers alone.

    The model is made without memory (on torch's `meta` device). safetensors checks that a header's shapes and offsets
    agree with each other and with the size of the file.
    """
    found = dict[str, tuple[str, str]]()
    for weights in files:
        try:
            _regular_size(weights)
            with safe_open(weights, framework="pt") as file:
                views = {rename(name): file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                found |= {name: (str(tuple(view.get_shape())), view.get_dtype()) for name, view in views.items()}
        except FileNotFoundError as error:
            raise InputError(f"{weights} is missing; the model is incomplete") from error
        except (OSError, SafetensorError) as error:
            raise InputError(f"{weights} cannot be read ({first_line(error)}); it is damaged") from error
    folder = files[0].parent
    with explained(f"{folder / 'config.json'} makes no model"), torch.device("meta"):
        expected = {name: str(tuple(t.shape)) for name, t in network_class.from_config(config).state_dict().items()}
    for name in [*expected, *found]:
        wanted, (shape, dtype) = expected.get(name, "nothing"), found.get(name, ("nothing", ""))
        if wanted != shape:
            raise InputError(f"the weights in {folder} do not fit its config.json: {name} is {shape}, not {wanted}")
        if dtype not in ("F16", "BF16", "F32", "F64"):
            raise InputError(f"the weights in {folder} have {name} as {dtype}; expected floating point")


def load_network(
    folder: Path,
    classes: Mapping[str, Any],
    variant: str | None = None,
    *,
    rename: Callable[[str], str] = str,
    made_by_class: Collection[str] = (),
) -> Any:
    """Returns the network of a folder (`config.json` and safetensors, in one file or several), in evaluation mode.

    Args:
        folder: where it was saved.
        classes: the classes that may be made, by the name that a configuration gives as `_class_name`.
        variant: name of the variant of the weights. If None, the weights without a variant, or those of the only one.
        made_by_class: entries of the configuration that a class adds by itself, and does not take.
        rename: gives the present name of a tensor in the files, for files of earlier versions of a class.

    Raises:
        InputError: for a missing or damaged file, another class, or weights that do not fit the configuration.
    """
    config = read_json(folder / "config.json")
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in classes:
        raise InputError(f"{folder / 'config.json'} is for the class {name!r}; expected {' or '.join(classes)}")
    network_class, config = classes[name], {k: v for k, v in config.items() if k not in made_by_class}
    check_numbers(config, folder / "config.json")
    files = _find_weights(folder, variant)
    _check_headers(network_class, config, files, rename)
    with explained(f"the model in {folder} is damaged and cannot be loaded"):
        with torch.random.fork_rng(devices=[]):  # its first weights are random numbers that nobody misses
            network = network_class.from_config(config).eval()
        # The weights are copied into memory of their own. Mapped from the file, they are not aligned as usual, which
        # makes kernels round differently, and a file that is cut off meanwhile would end the process.
        for file in files:
            weights = {rename(key): tensor for key, tensor in load_file(file).items()}
            network.load_state_dict(weights, strict=False)  # all names were checked
    bad = next((name for name, p in network.named_parameters() if not bool(p.isfinite().all())), None)
    if bad is not None:
        raise InputError(f"the weights in {folder} are not finite ({bad}); the model is damaged")
    return network
