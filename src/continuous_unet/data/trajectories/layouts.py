"""Reads episodes in the layouts of LeRobot, robomimic and Diffusion Policy, and in our own.

Each layout is a function, and an entry in `LAYOUTS`. Libraries are imported when a file needs them.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.data.trajectories.episodes import Episodes, read_npz

Keys = Sequence[str] | None
"""The names of the values that are observed, in their order; None for the default of `open_episodes`."""
EXPECTED = (
    "a .npz with observations, states or actions and episode_ends, a LeRobot folder (meta/info.json), a robomimic "
    ".hdf5, or a .zarr of Diffusion Policy"
)


def open_episodes(source: str, observation_keys: Keys = None) -> Episodes:
    """Reads the episodes in a file or a folder.

    Args:
        source: a `.npz`; a folder of LeRobot; a `.hdf5` of robomimic; a `.zarr` folder or zip of Diffusion Policy.
        observation_keys: what is observed, by the names in the file. If None: of LeRobot all `observation.*` but images
            and videos, of robomimic all vectors in `obs`, of zarr `obs`, else `state`, else all vectors but `action`.

    Raises:
        InputError: for anything else, for missing or damaged content, and for a missing package.
    """
    path = Path(source)
    if not path.exists():
        raise InputError(f"{source} does not exist; expected {EXPECTED}")
    for matches, read in LAYOUTS:
        if matches(path):
            if read is _npz and observation_keys is not None:
                raise InputError(
                    "--observation-keys is for LeRobot, robomimic and zarr, and a .npz has one array of observations; "
                    "leave it out"
                )
            try:
                return read(path, observation_keys)
            except InputError:
                raise
            except Exception as error:  # the libraries have dozens of classes of errors
                raise InputError(f"{source} cannot be read: {first_line(error)}") from error
    raise InputError(f"{source} holds no episodes that can be read; expected {EXPECTED}")


def _library(module: str, source: Path) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        needs = f"{source} needs the package {module.partition('.')[0]}"
        raise InputError(f"{needs}: pip install 'continuous-unet[robots]'") from error


def _npz(path: Path, keys: Keys) -> Episodes:
    return read_npz(str(path))


def _joined(path: Path, found: Mapping[str, np.ndarray], keys: Keys, default: Iterable[str]) -> np.ndarray | None:
    """Returns the observations of some names, side by side, each flattened to `(N, D)`; None if there are none."""
    names = list(default) if keys is None else list(keys)
    unknown = [name for name in names if name not in found]
    if unknown:
        raise InputError(f"{path} has no observations called {unknown[0]!r}; it has {', '.join(found) or 'none'}")
    parts = [np.asarray(found[name]).reshape(len(found[name]), -1) for name in names]
    return np.concatenate(parts, axis=1) if parts else None


def _episodes(
    path: Path, kind: str, ends: Any, *, actions: Any, states: Any = None, observations: Any = None
) -> Episodes:
    values = {"observations": observations, "states": states, "actions": actions}
    arrays = {name: np.asarray(value) for name, value in values.items() if value is not None}
    return Episodes(path.name, arrays, np.asarray(ends), kind)


def _lerobot(path: Path, keys: Keys) -> Episodes:
    """Reads the parquet files of LeRobot, versions 2 and 3."""
    info = json.loads((path / "meta" / "info.json").read_text(encoding="utf-8"))
    features = info.get("features") if isinstance(info, dict) else None
    if not isinstance(features, dict):
        raise InputError(f"{path / 'meta' / 'info.json'} lists no features; expected the meta data of LeRobot")
    files = sorted((path / "data").rglob("*.parquet"))
    if not files:
        raise InputError(f"{path / 'data'} holds no parquet files; expected those of LeRobot")
    vectors = [
        name
        for name, about in features.items()
        if name.startswith("observation.") and about.get("dtype") not in ("video", "image")
    ]
    wanted = vectors if keys is None else list(keys)
    read_table = _library("pyarrow.parquet", path).read_table
    columns: dict[str, list[np.ndarray]] = {}
    for file in files:
        table = read_table(file)
        for name in dict.fromkeys([*wanted, "action", "episode_index", "frame_index"]):
            if name not in table.column_names:
                has = ", ".join(table.column_names)
                raise InputError(f"{file} has no column {name!r}; it has {has}")
            rows = table.column(name).to_numpy(zero_copy_only=False)
            columns.setdefault(name, []).append(np.stack(rows) if rows.dtype == object else rows)
    found = {name: np.concatenate(parts) for name, parts in columns.items()}
    order = np.lexsort((found["frame_index"], found["episode_index"]))
    found = {name: values[order] for name, values in found.items()}
    ends = np.append(np.flatnonzero(np.diff(found["episode_index"])) + 1, len(order))
    actions = found["action"].reshape(len(order), -1)
    return _episodes(path, "LeRobot", ends, actions=actions, observations=_joined(path, found, keys, vectors))


def _robomimic(path: Path, keys: Keys) -> Episodes:
    """Reads the demonstrations of a robomimic file, in the order of their numbers."""
    with _library("h5py", path).File(path, "r") as file:
        if "data" not in file or not len(file["data"]):
            raise InputError(f"{path} has no demonstrations under data/; expected the layout of robomimic")
        demos = file["data"]
        numbered = sorted(demos, key=lambda name: (int(name.rpartition("_")[2]), name))
        parts: dict[str, list[np.ndarray]] = {"actions": [], "states": [], "observations": []}
        for name in numbered:
            demo = demos[name]
            if "actions" not in demo:
                raise InputError(f"{path}: data/{name} has no actions; expected the layout of robomimic")
            parts["actions"].append(demo["actions"][()])
            if "states" in demo:
                parts["states"].append(demo["states"][()])
            seen = {key: values[()] for key, values in demo.get("obs", {}).items()}
            vectors = [key for key, values in seen.items() if values.ndim <= 2]
            observed = _joined(path, seen, keys, vectors)
            if observed is not None:
                parts["observations"].append(observed)
    ends = np.cumsum([len(values) for values in parts["actions"]])
    for name, values in parts.items():
        if values and len(values) < len(numbered):
            raise InputError(f"{path}: only {len(values)} of {len(numbered)} demonstrations have {name}")
    return _episodes(path, "robomimic", ends, **{n: np.concatenate(v) if v else None for n, v in parts.items()})


def _zarr(path: Path, keys: Keys) -> Episodes:
    """Reads the replay buffer of Diffusion Policy: `data/action`, further arrays beside it, and `meta/episode_ends`."""
    zarr = _library("zarr", path)
    root = zarr.open(zarr.storage.ZipStore(path, mode="r") if path.is_file() else str(path), mode="r")
    for name in ("data/action", "meta/episode_ends"):
        if name not in root:
            raise InputError(f"{path} has no array {name}; expected the zarr layout of Diffusion Policy")
    data = {name: values for name, values in root["data"].arrays() if name != "action"}
    preferred = [name for name in ("obs", "state") if name in data and data[name].ndim == 2][:1]
    vectors = preferred or [name for name in sorted(data) if data[name].ndim == 2]
    found = {name: values[:] for name, values in data.items() if name in (*vectors, *(keys or ()), "state")}
    if keys is not None and not set(keys) <= set(found):
        raise InputError(
            f"{path} has no observations called {sorted(set(keys) - set(found))[0]!r}; it has {', '.join(data)}"
        )
    states = found.get("state")
    return _episodes(
        path,
        "zarr",
        root["meta/episode_ends"][:],
        actions=root["data/action"][:],
        states=states if states is not None and states.ndim == 2 else None,
        observations=_joined(path, found, keys, vectors),
    )


LAYOUTS: list[tuple[Callable[[Path], bool], Callable[[Path, Keys], Episodes]]] = [
    (lambda path: path.suffix.lower() == ".npz" and path.is_file(), _npz),
    (lambda path: (path / "meta" / "info.json").is_file(), _lerobot),
    (lambda path: path.suffix.lower() in (".hdf5", ".h5") and path.is_file(), _robomimic),
    (lambda path: path.name.lower().endswith((".zarr", ".zarr.zip")), _zarr),
]
"""For each layout, whether a path is of it, and how it is read."""
