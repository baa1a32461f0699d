"""Checkpoints: whole or not there; damage is found; the old one stands until the new one does."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from continuous_unet.base import files
from continuous_unet.base.errors import InputError
from continuous_unet.training import checkpoints

TENSORS = {"model": {"a": torch.arange(4.0), "b": torch.ones(2, 2)}}


def save(folder, step):
    return checkpoints.save_checkpoint(folder, step, TENSORS, {"step": step})


def test_round_trip(tmp_path):
    path = save(tmp_path, 7)
    assert path.name == "step-00000007"
    tensors, state = checkpoints.load_checkpoint(path)
    assert state == {"step": 7}
    assert torch.equal(tensors["model"]["a"], torch.arange(4.0))
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "model.safetensors", "state.json"]


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_damage_is_found_and_the_older_one_used(name, how, tmp_path, caplog):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    content = bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert checkpoints.latest_valid(tmp_path).name == "step-00000001"
    assert "step-00000002 is damaged" in caplog.text


def test_a_crash_while_writing_leaves_the_old_one(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def die(*args):
        raise KeyboardInterrupt  # not an error that is handled: as good as a kill

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert checkpoints.latest_valid(tmp_path).name == "step-00000001"
    save(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]  # the remains are gone


def test_a_kill_at_any_moment_leaves_a_whole_one(tmp_path):
    """Process after process saves without end and is killed; each finds a whole one, no older than the last's."""
    context, newest = multiprocessing.get_context("fork"), -1
    for attempt in range(15):
        process = context.Process(target=save_without_end, args=(tmp_path, newest + 1))
        process.start()
        time.sleep(0.03 + 0.01 * attempt)
        process.kill()
        process.join()
        found = checkpoints.latest_valid(tmp_path)
        if found is not None:
            tensors, state = checkpoints.load_checkpoint(found)
            assert state["step"] == int(found.name.removeprefix("step-")) >= newest
            assert torch.equal(tensors["model"]["a"], torch.arange(4.0))
            newest = state["step"]
    assert newest > 1  # far more on a quiet machine


def save_without_end(folder, step):
    while True:
        save(folder, step)
        checkpoints.remove_old(folder, step, 2)
        step += 1


def test_a_failure_at_any_write_leaves_the_old_one(tmp_path, monkeypatch):
    """Every call that writes fails once, the first in the first round, and so on until a save goes through."""
    save(tmp_path, 1)
    for rounds in range(100):
        left = [rounds]

        def failing(real, left=left):
            def act(*args, **options):
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(28, "No space left on device")
                return real(*args, **options)

            return act

        with monkeypatch.context() as patch:
            ours, theirs = ((checkpoints, "save_file"), (files, "sync")), ((Path, "write_text"), (Path, "mkdir"))
            for owner, name in (*ours, *theirs, (os, "replace")):
                patch.setattr(owner, name, failing(getattr(owner, name)))
            try:
                save(tmp_path, 2)
                break
            except InputError as error:
                message = str(error)
        assert "No space left" in message
        assert "free some space" in message
        newest = checkpoints.latest_valid(tmp_path)
        # the last failure comes after the rename, when the new one stands already
        assert [p.name for p in tmp_path.iterdir() if p != newest and p.suffix != ".old"] == (
            [] if newest.name[-1] == "1" else ["step-00000001"]
        )
    assert rounds == 12  # two folders, three files, four syncs, two renames (the old one goes aside) and their sync


def test_only_what_the_manifest_vouches_for_is_read(tmp_path):
    path = save(tmp_path, 1)
    save_file({"x": torch.ones(1)}, path / "smuggled.safetensors")
    assert list(checkpoints.load_checkpoint(path)[0]) == ["model"]
    (path / "manifest.json").write_text(json.dumps({"../elsewhere": "0"}))
    assert "not a list of files" in checkpoints.find_damage(path)


def test_old_ones_go(tmp_path):
    for step in range(5):
        save(tmp_path, step)
    checkpoints.remove_old(tmp_path, 4, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_what_lies_beyond_the_new_one_goes(tmp_path):
    """Left by a run that found it damaged and went on from an older one: it would outlive whole ones."""
    for step in (3, 6, 9):
        save(tmp_path, step)
    (tmp_path / "step-00000009" / "state.json").write_text("{")
    save(tmp_path, 7)
    checkpoints.remove_old(tmp_path, 7, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000007"]
