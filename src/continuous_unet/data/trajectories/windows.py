"""Windows of episodes as training reads them: a plan, and what was observed before it."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from continuous_unet.base.results import Json
from continuous_unet.data.loading import Item, TrainingData
from continuous_unet.data.order import EpochSampler, hold_out
from continuous_unet.data.trajectories.episodes import Episodes
from continuous_unet.data.trajectories.scaling import Scaling

Learned = Literal["actions", "trajectory"]


@dataclass(frozen=True)
class EpisodesReport:
    """The facts about episodes, for people and for run.json."""

    source: str
    kind: str
    num_images: int
    """The number of windows."""
    episodes: int
    shortest: int
    """The number of time steps of the shortest episode."""
    longest: int
    channels: int
    """The numbers of a plan at one time step."""
    horizon: int
    observed: int
    """The numbers that the model is given as condition; 0 if there is none."""
    digest: str
    """A hash of all values: a run cannot continue with others."""
    class_names: list[str] | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """The length of a plan."""
        return (self.horizon,)

    def summary(self) -> str:
        """Returns a line to read before training."""
        seen = f", given {self.observed} observed numbers" if self.observed else ""
        return (
            f"{self.episodes:,} episodes of {self.shortest} to {self.longest} time steps from {self.source} "
            f"({self.kind}): {self.num_images:,} plans of {self.horizon} time steps x {self.channels} numbers{seen}"
        )

    def description(self) -> str:
        """Returns what was trained on, for the report of a run."""
        return f"{self.num_images:,} plans of {self.horizon} time steps, {self.channels} numbers each"

    def to_dict(self) -> Json:
        """Returns the facts for JSON."""
        return asdict(self)

    def differences(self, before: Json, moved: bool = False) -> list[str]:
        """Returns what makes these episodes others than those that a run was started with."""
        now = self.to_dict()
        names = ("episodes", "num_images", "channels", "horizon", "observed")
        changed = [f"{n} {before[n]!r} -> {now[n]!r}" for n in names if n in before and before[n] != now[n]]
        if not changed and before.get("digest", self.digest) != self.digest:
            changed.append("the values of the episodes are not the same")
        return changed


@dataclass
class TrajectoryData(TrainingData, Dataset):
    """Windows of episodes, by number.

    A plan of actions starts at each time step; after the end of the episode its last action is repeated, and before its
    start the first observation. A plan of states lies within its episode.

    Args:
        episodes: what they are cut from.
        learned: `"actions"`, or `"trajectory"` for states and actions.
        horizon: number of time steps of a plan.
        history: number of observations that come before a plan of actions, with that of its first time step.
        seed: sets the order.
        chosen: the numbers of the episodes to use; all if None.

    Raises:
        InputError: if values are missing, or an episode is shorter than the horizon.
    """

    resume_promise = "exact"

    episodes: Episodes
    learned: Learned
    horizon: int
    history: int
    seed: int = 0
    chosen: Sequence[int] | None = None

    def __post_init__(self) -> None:
        episodes = self.episodes
        episodes.check_horizon(self.horizon)
        if self.learned == "actions":
            self.observations: np.ndarray | None = episodes.need("observations", "states")
            self.observed = Scaling.of(self.observations)
            self.plans, self.scaling = episodes.need("actions"), Scaling.of(episodes.need("actions"))
            self.num_states = 0
        else:
            states, actions = episodes.need("states", "observations"), episodes.arrays.get("actions")
            self.observations, self.observed = None, Scaling((), ())
            self.plans = states if actions is None else np.concatenate([states, actions], axis=1)
            self.scaling = Scaling.of(self.plans)
            self.num_states = states.shape[1]
        self._scaled = self.scaling.normalise(self.plans)
        self._seen = None if self.observations is None else self.observed.normalise(self.observations)
        numbers = range(len(episodes)) if self.chosen is None else self.chosen
        windows = []
        for episode in numbers:
            start, end = int(episodes.starts[episode]), int(episodes.ends[episode])
            last = end if self.learned == "actions" else end - self.horizon + 1
            windows += [(start, end, first) for first in range(start, last)]
        self.windows = np.array(windows, dtype=np.int64).reshape(-1, 3)
        kept = episodes.lengths[list(numbers)]
        self.report = EpisodesReport(  # type: ignore[assignment]  # which has what training reads of a report
            source=episodes.name,
            kind=episodes.kind,
            num_images=len(self.windows),
            episodes=len(kept),
            shortest=int(kept.min()) if len(kept) else 0,
            longest=int(kept.max()) if len(kept) else 0,
            channels=len(self.scaling),
            horizon=self.horizon,
            observed=self.history * len(self.observed),
            digest=_digest(episodes),
        )

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        index = key[1] if isinstance(key, tuple) else key
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} plans")
        index %= len(self)
        start, end, first = self.windows[index]
        steps = np.minimum(np.arange(first, first + self.horizon), end - 1)
        item: Item = {"image": torch.from_numpy(self._scaled[steps].T.copy()), "index": index, "unreadable": False}
        if self._seen is not None:
            before = np.maximum(np.arange(first - self.history + 1, first + 1), start)
            item["observation"] = torch.from_numpy(self._seen[before].reshape(-1))
        return item

    def name_of(self, index: int) -> str:
        start, _, first = self.windows[index].tolist()
        episode = int(np.searchsorted(self.episodes.ends, start, side="right"))
        return f"{self.episodes.name}, episode {episode}, step {first - start}"

    def _reader(self, start: int, order: EpochSampler) -> tuple[Dataset, EpochSampler]:
        return self, order

    def split(self, num_validation: int) -> "tuple[TrajectoryData, TrajectoryData | None]":
        """Holds episodes out, chosen at random by the seed; all episodes keep one scaling.

        Raises:
            InputError: if nothing would be left to train on.
        """
        if num_validation == 0:
            return self, None
        kept, held_out = (part.tolist() for part in hold_out(num_validation, len(self.episodes), self.seed, "episodes"))
        return replace(self, chosen=kept), replace(self, chosen=held_out)


def _digest(episodes: Episodes) -> str:
    found = hashlib.blake2b(episodes.ends.tobytes(), digest_size=16)
    for name in sorted(episodes.arrays):
        found.update(name.encode() + episodes.arrays[name].tobytes())
    return found.hexdigest()
