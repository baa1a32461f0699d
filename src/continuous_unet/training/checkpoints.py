"""Checkpoints that a crash cannot damage: they are written aside, hashed, synced and renamed.

A checkpoint is a folder `step-00001000` that counts only if its `manifest.json`, written last, names the hash of every
file in it. Tensors are safetensors, the rest is JSON: nothing is pickled.
"""

import hashlib
import json
import logging
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import explain_write_errors, replace_folder
from continuous_unet.base.results import Json
from continuous_unet.training.state import Tensors

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"


def save_checkpoint(folder: Path, step: int, tensors: Tensors, state: Json) -> Path:
    """Writes `folder/step-XXXXXXXX`, atomically, and returns it.

    Args:
        folder: the run's `checkpoints`.
        step: number of training steps so far.
        tensors: named tensors by file, each of which becomes a safetensors file.
        state: the content of `state.json`.

    Raises:
        InputError: if it cannot be written (disk full, no permission); earlier checkpoints are untouched.
    """

    def write(aside: Path) -> None:
        aside.mkdir()
        for stem, named in tensors.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in named.items()}, aside / f"{stem}.safetensors")
        (aside / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        manifest = {path.name: _hash(path) for path in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    target = folder / f"step-{step:08d}"
    with explain_write_errors(target):
        for stale in folder.glob("step-????????.*"):  # what a kill left half written
            shutil.rmtree(stale)
    replace_folder(target, write)
    return target


def remove_old(folder: Path, step: int, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints up to `step`, once the one of `step` is complete.

    Checkpoints with a higher number are removed too. They are damaged, because the run did not continue from them, and
    later they would be taken for the newest.
    """
    whole = [path for path in sorted(folder.glob("step-????????")) if path.name <= f"step-{step:08d}"]
    for path in folder.glob("step-????????"):
        if path not in whole[-keep:]:
            shutil.rmtree(path, ignore_errors=True)


def latest_valid(folder: Path) -> Path | None:
    """Returns the newest complete checkpoint, or None; a warning names each damaged one that is skipped."""
    for path in sorted(folder.glob("step-????????"), reverse=True):
        problem = find_damage(path)
        if problem is None:
            return path
        logger.warning("the checkpoint %s is damaged (%s); an older one is used", path.name, problem)
    return None


def find_damage(path: Path) -> str | None:
    """Returns how a checkpoint is damaged, or None if it is complete."""
    try:
        manifest = _manifest(path)
        if "state.json" not in manifest:
            return "its manifest is incomplete"
        for name, expected in manifest.items():
            if _hash(path / name) != expected:
                return f"{name} does not match its hash"
    except (OSError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def load_checkpoint(path: Path) -> tuple[Tensors, Json]:
    """Returns the tensors by file, and the state, of a complete checkpoint.

    Raises:
        InputError: for files whose hashes are right but whose contents are not a checkpoint.
    """
    try:
        # only what the manifest vouches for
        files = [path / name for name in _manifest(path) if name.endswith(".safetensors")]
        tensors = {file.stem: load_file(file) for file in files}
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"the checkpoint {path} cannot be read ({error}); remove it to continue from an older one"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"the checkpoint {path} has a state.json that is not a JSON object; remove it")
    return tensors, state


def _manifest(path: Path) -> dict[str, str]:
    """Returns the hashes by file name."""
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or any(Path(name).name != name for name in manifest):
        raise ValueError("the manifest is not a list of files and hashes")
    return manifest


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
