"""Episodes of any length: what was observed and done at every time step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import replace_file
from continuous_unet.data.archives import open_archive

KINDS = ("observations", "states", "actions")
"""What is known of a time step: what the robot sees, where it is, and what it does."""
ENDS = "episode_ends"


@dataclass(frozen=True)
class Episodes:
    """Episodes one after the other, checked when they are made.

    Raises:
        InputError: for arrays that do not fit each other, are empty, or have values that are not finite.
    """

    name: str
    """What they are called in messages."""
    arrays: Mapping[str, np.ndarray]
    """Arrays `(N, D)`, float32, of some of `KINDS`; row n of each belongs to one time step."""
    ends: np.ndarray
    """The number of the first time step after each episode, `(E,)`, ascending; the last one is N."""
    kind: str = field(default="npz", compare=False)
    """The layout that they were read from."""

    def __post_init__(self) -> None:
        if not self.arrays:
            raise InputError(f"{self.name} holds none of {', '.join(KINDS)}")
        arrays = {name: _checked(self.name, name, values) for name, values in self.arrays.items()}
        lengths = {name: len(values) for name, values in arrays.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{length} of {name}" for name, length in lengths.items())
            raise InputError(f"{self.name} has {shown}; expected one of each for every time step")
        number = next(iter(lengths.values()))
        ends = np.asarray(self.ends)
        if ends.ndim != 1 or not np.issubdtype(ends.dtype, np.integer) or not len(ends):
            raise InputError(
                f"{self.name}: {ENDS} has shape {ends.shape} and type {ends.dtype}; expected integers (E,)"
            )
        if ends[0] < 1 or (np.diff(ends) < 1).any() or ends[-1] != number:
            raise InputError(
                f"{self.name}: {ENDS} must rise from the end of the first episode to {number}, the number of time "
                f"steps; it goes from {ends[0]} to {ends[-1]}"
            )
        object.__setattr__(self, "arrays", arrays)
        object.__setattr__(self, "ends", ends.astype(np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def starts(self) -> np.ndarray:
        """The number of the first time step of each episode, `(E,)`."""
        return np.concatenate([[0], self.ends[:-1]])

    @property
    def lengths(self) -> np.ndarray:
        """The number of time steps of each episode, `(E,)`."""
        return np.diff(self.ends, prepend=0)

    def need(self, *names: str) -> np.ndarray:
        """Returns the first of some arrays that there is.

        Raises:
            InputError: if there is none of them.
        """
        for name in names:
            if name in self.arrays:
                return self.arrays[name]
        wanted, has = " or ".join(names), ", ".join(self.arrays)
        raise InputError(f"{self.name} has no {wanted} (it has {has}); add an array of that name, a row per time step")

    def check_horizon(self, horizon: int) -> None:
        """Raises InputError if an episode is shorter than a plan."""
        short = np.flatnonzero(self.lengths < horizon)
        if len(short):
            first = int(short[0])
            raise InputError(
                f"{len(short)} of {len(self)} episodes of {self.name} are shorter than the horizon of {horizon} time "
                f"steps, such as episode {first} with {self.lengths[first]}; choose a smaller --horizon, or leave "
                "these episodes out"
            )

    def save(self, path: str | Path) -> None:
        """Writes the episodes as the `.npz` that `open_episodes` reads."""
        content: dict[str, Any] = {**self.arrays, ENDS: self.ends}

        def write(aside: Path) -> None:
            with aside.open("wb") as file:  # savez would add .npz to a name
                np.savez_compressed(file, **content)

        replace_file(Path(path), write)


def _checked(source: str, name: str, values: np.ndarray) -> np.ndarray:
    """Returns an array `(N, D)`, float32, with at least one row and column, and finite values."""
    values = np.asarray(values)
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool) or np.iscomplexobj(values):
        raise InputError(f"{source}: {name} are of type {values.dtype}; expected numbers")
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(
            f"{source}: {name} have the shape {values.shape}; expected (time steps, numbers), one vector per time step"
        )
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InputError(
            f"{source}: {name} have values that are not finite in {len(bad)} time steps, such as step {bad[0]}; repair "
            "these episodes or leave them out"
        )
    return values


def read_npz(source: str) -> Episodes:
    """Reads a NumPy archive with `episode_ends` and some of `observations`, `states` and `actions`.

    Raises:
        InputError: for a file that cannot be used.
    """
    with open_archive(source) as archive:
        found = {name: archive[name] for name in (*KINDS, ENDS) if name in archive}
        names = list(archive)
    ends = found.pop(ENDS, None)
    if ends is None or not found:
        missing = ENDS if ends is None else " or ".join(KINDS)
        raise InputError(
            f"{source} has no array {missing} (it has {', '.join(names) or 'none'}); expected {ENDS} (E,) and some of "
            f"{', '.join(KINDS)} (N, D)"
        )
    return Episodes(Path(source).name, found, ends)
