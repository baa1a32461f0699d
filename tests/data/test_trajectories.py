"""Episodes: what is refused, how windows are cut and scaled, and the layouts that they are read from."""

import json
import sys

import numpy as np
import pytest
import torch

from continuous_unet.base.errors import InputError
from continuous_unet.data.trajectories.episodes import Episodes
from continuous_unet.data.trajectories.layouts import open_episodes
from continuous_unet.data.trajectories.scaling import Scaling
from continuous_unet.data.trajectories.windows import TrajectoryData

LENGTHS = (5, 9, 6)


def values(width, seed=0):
    return np.random.default_rng(seed).normal(size=(sum(LENGTHS), width)).astype(np.float32)


def episodes(**changes):
    arrays = {"observations": values(3), "actions": values(2, 1)}
    return Episodes("some", {**arrays, **changes}, np.cumsum(LENGTHS))


def with_a_nan():
    found = values(2)
    found[7, 1] = np.nan
    return found


def test_an_archive_and_back(tmp_path):
    before = episodes()
    before.save(tmp_path / "some.npz")
    after = open_episodes(str(tmp_path / "some.npz"))
    assert all(np.array_equal(before.arrays[name], after.arrays[name]) for name in before.arrays)
    assert after.lengths.tolist() == list(LENGTHS)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"actions": values(2)}, "no array episode_ends"),
        ({"episode_ends": np.cumsum(LENGTHS)}, "no array observations or states or actions"),
        ({"actions": values(2), "episode_ends": np.array([5, 9])}, "must rise from the end of the first"),
        ({"actions": values(2), "episode_ends": np.array([5, 5, 20])}, "must rise"),
        ({"actions": values(2), "episode_ends": np.array([5.0, 20.0])}, "expected integers"),
        ({"actions": values(2), "states": values(2)[:9], "episode_ends": np.array([20])}, "20 of actions"),
        ({"actions": values(2)[:, 0], "episode_ends": np.array([20])}, "one vector per time step"),
        ({"actions": values(2).astype(str), "episode_ends": np.array([20])}, "expected numbers"),
        ({"actions": with_a_nan(), "episode_ends": np.array([20])}, "not finite in 1 time steps, such as step 7"),
    ],
)
def test_archives_that_cannot_be_used(content, line, tmp_path):
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(InputError, match=line) as refused:
        open_episodes(str(tmp_path / "bad.npz"))
    assert "\n" not in str(refused.value)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK")
    (tmp_path / "notes.txt").write_text("no episodes")
    for name, line in (
        ("broken.npz", "not a NumPy archive"),
        ("notes.txt", "no episodes"),
        ("none", "does not exist"),
    ):
        with pytest.raises(InputError, match=line):
            open_episodes(str(tmp_path / name))


def test_scaling_and_back():
    data = values(3) * [10, 0, 1e-3] + [5, 2, -3]
    scaling = Scaling.of(data)
    scaled = scaling.normalise(data)
    assert scaled.min(axis=0) == pytest.approx([-1, 0, -1], abs=1e-3)
    assert scaled.max(axis=0) == pytest.approx([1, 0, 1], abs=1e-3)
    assert scaling.restore(scaled) == pytest.approx(data, abs=1e-6)
    assert torch.allclose(scaling.restore(torch.tensor(scaled)), torch.tensor(data), atol=1e-6)


def test_windows_of_actions_repeat_the_ends():
    found = episodes()
    data = TrajectoryData(found, "actions", horizon=4, history=3)
    assert len(data) == sum(LENGTHS)
    assert data.shape == (2, 4)
    seen, done = data.observed.normalise(found.arrays["observations"]), data.scaling.normalise(found.arrays["actions"])
    for start, length in zip(np.cumsum((0, *LENGTHS)), LENGTHS, strict=False):
        for step in range(length):
            item = data[start + step]
            plan = [done[start + min(step + k, length - 1)] for k in range(4)]
            before = [seen[start + max(step - 2 + k, 0)] for k in range(3)]
            assert item["image"].numpy() == pytest.approx(np.array(plan).T)
            assert item["observation"].numpy() == pytest.approx(np.concatenate(before))
    assert data.name_of(6) == "some, episode 1, step 1"


def test_windows_of_states_stay_inside_their_episode():
    found = episodes(states=values(4, 2))
    data = TrajectoryData(found, "trajectory", horizon=4, history=1)
    assert len(data) == sum(length - 3 for length in LENGTHS)
    assert data.shape == (6, 4)
    assert data.num_states == 4
    both = np.concatenate([found.arrays["states"], found.arrays["actions"]], axis=1)
    assert data[2]["image"].numpy() == pytest.approx(data.scaling.normalise(both[5:9]).T)
    assert "observation" not in data[2]


def test_whole_episodes_are_held_out():
    data = TrajectoryData(episodes(), "actions", horizon=4, history=1, seed=3)
    kept, held_out = data.split(1)
    assert len(kept) + len(held_out) == len(data)
    assert kept.scaling == held_out.scaling == data.scaling
    assert kept.report.episodes == 2
    with pytest.raises(InputError, match="3 validation episodes leave nothing to train on"):
        data.split(3)


def test_what_windows_need():
    with pytest.raises(InputError, match=r"1 of 3 episodes .* shorter than the horizon of 6 .* episode 0 with 5"):
        TrajectoryData(episodes(), "actions", horizon=6, history=1)
    with pytest.raises(InputError, match="no actions"):
        TrajectoryData(Episodes("some", {"states": values(2)}, [20]), "actions", horizon=4, history=1)
    with pytest.raises(InputError, match="no states or observations"):
        TrajectoryData(Episodes("some", {"actions": values(2)}, [20]), "trajectory", horizon=4, history=1)


def test_a_run_cannot_continue_with_other_episodes():
    before = TrajectoryData(episodes(), "actions", horizon=4, history=1).report
    assert before.differences(json.loads(json.dumps(before.to_dict()))) == []
    other = TrajectoryData(episodes(actions=values(2, 9)), "actions", horizon=4, history=1).report
    assert other.differences(before.to_dict()) == ["the values of the episodes are not the same"]


def lerobot(path, many):
    """A LeRobot data set in version 2, with a file per episode, or in version 3, with one for all."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    found = episodes(observations=values(5))
    vectors = {"observation.state": values(5)[:, :3], "observation.environment_state": values(5)[:, 3:]}
    features = {name: {"dtype": "float32"} for name in vectors}
    features |= {"observation.image": {"dtype": "video"}, "action": {"dtype": "float32"}}
    (path / "meta").mkdir(parents=True)
    (path / "meta" / "info.json").write_text(json.dumps({"features": features}))
    (path / "data" / "chunk-000").mkdir(parents=True)
    numbers = np.repeat(np.arange(3), LENGTHS)
    frames = np.concatenate([np.arange(length) for length in LENGTHS])
    order = np.random.default_rng(0).permutation(len(numbers))  # rows need not be sorted
    for part in [numbers == n for n in range(3)] if many else [numbers >= 0]:
        rows = order[part[order]]
        columns = {**vectors, "action": found.arrays["actions"]}
        table = {name: pa.array(list(column[rows])) for name, column in columns.items()}
        table |= {"episode_index": pa.array(numbers[rows]), "frame_index": pa.array(frames[rows])}
        parquet.write_table(pa.table(table), path / "data" / "chunk-000" / f"file-{numbers[rows[0]]:03}.parquet")
    return found


def robomimic(path):
    h5py = pytest.importorskip("h5py")
    found = episodes(observations=values(5), states=values(4, 2))
    starts, ends = found.starts, found.ends
    with h5py.File(path, "w") as file:
        for number in (2, 0, 1):
            demo, rows = file.create_group(f"data/demo_{number}"), slice(starts[number], ends[number])
            demo["actions"], demo["states"] = found.arrays["actions"][rows], found.arrays["states"][rows]
            demo["obs/arm"], demo["obs/object"] = values(5)[rows, :3], values(5)[rows, 3:]
            demo["obs/camera"] = np.zeros((LENGTHS[number], 2, 2, 3), np.uint8)
    return found


def diffusion_policy(path):
    zarr = pytest.importorskip("zarr")
    found = episodes(observations=values(4, 2), states=values(4, 2))
    root = zarr.open_group(str(path), mode="w")
    for name, content in {
        "data/action": found.arrays["actions"],
        "data/state": found.arrays["states"],
        "data/keypoint": np.zeros((sum(LENGTHS), 3, 2), np.float32),
        "meta/episode_ends": found.ends,
    }.items():
        root.create_array(name, data=content)
    return found


LAYOUTS = {
    "LeRobot, version 2": ("robot", lambda path: lerobot(path, True)),
    "LeRobot, version 3": ("robot", lambda path: lerobot(path, False)),
    "robomimic": ("demos.hdf5", robomimic),
    "zarr": ("replay.zarr", diffusion_policy),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout(layout, tmp_path):
    name, make = LAYOUTS[layout]
    made = make(tmp_path / name)
    found = open_episodes(str(tmp_path / name))
    assert found.kind == layout.partition(",")[0]
    assert found.ends.tolist() == made.ends.tolist()
    assert set(found.arrays) == set(made.arrays)
    assert all(np.array_equal(found.arrays[key], made.arrays[key]) for key in made.arrays)
    with pytest.raises(InputError, match="nothing"):
        open_episodes(str(tmp_path / name), ["nothing"])


def test_chosen_observations(tmp_path):
    robomimic(tmp_path / "demos.hdf5")
    found = open_episodes(str(tmp_path / "demos.hdf5"), ["object"])
    assert np.array_equal(found.arrays["observations"], values(5)[:, 3:])


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    robomimic(tmp_path / "demos.hdf5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"needs the package h5py: pip install 'continuous-unet\[robots\]'"):
        open_episodes(str(tmp_path / "demos.hdf5"))
