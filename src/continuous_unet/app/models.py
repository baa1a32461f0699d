"""The models of a page: exported once, and kept in the user's cache."""

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from continuous_unet import __version__
from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.deploy.standalone import runtime
from continuous_unet.deploy.web_runtime import cache_folder
from continuous_unet.tasks.packaged import find_model, pretrained_models

NOT_ON_PAGES = {"video": "clips", "plan": "plans"}
"""What models make that no page shows, by their task."""
LARGEST_IN_BROWSER = 200 * 2**20
"""The size of an export in bytes up to which the browser computes, if nothing else is asked for."""


@dataclass(frozen=True)
class AppModel:
    """A model on the page."""

    name: str
    """Its name there, which no other model of the page has."""
    source: str
    """What was asked for: a folder, or the name of a model of the package."""
    folder: Path
    """Its export."""
    info: Json
    """The contents of `export.json`."""

    @property
    def task(self) -> str:
        """What it does: `generation`, `denoise` or `upscale`."""
        return str(self.info["task"])

    def computed_by(self, compute: str, in_browser: bool) -> str:
        """Returns `browser` or `server`.

        Args:
            compute: what was asked for, which may be `auto`.
            in_browser: whether onnxruntime-web is there.
        """
        small = self.info["size_bytes"] <= LARGEST_IN_BROWSER
        return compute if compute != "auto" else "browser" if in_browser and small else "server"


def open_models(names: Sequence[str]) -> list[AppModel]:
    """Exports models for a page, or finds their exports in the cache.

    Args:
        names: run folders, saved models, exports, or names of the package; all of the package if there are none.

    Raises:
        InputError: for a model that cannot be exported, and if there is none.
    """
    chosen = list(names) or pretrained_models()
    if not chosen:
        raise InputError("no model comes with this package; name one: cunet app runs/digits")
    found: list[AppModel] = []
    for source in chosen:
        folder = _export_of(source)
        info = _read(folder)
        if len(info["image_shape"]) != 3:
            raise InputError(f"{source} makes clips, and the page is for images; use `cunet sample` or `cunet run`")
        if info["format"] != "onnx":
            raise InputError(
                f"{source} is an export of format {info['format']}, and the page takes onnx; export the model with "
                "--format onnx"
            )
        found.append(AppModel(_name(source, [one.name for one in found]), source, folder, info))
    return found


def _name(source: str, taken: Sequence[str]) -> str:
    """Returns a name for an address: letters, digits and dashes, not taken yet."""
    path = Path(source).resolve()
    word = path.parent.name if path.name == "model" else path.name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", word).strip(".-") or "model"
    number = 2
    unique = name
    while unique in taken:
        unique, number = f"{name}-{number}", number + 1
    return unique


def _read(folder: Path) -> Json:
    try:
        info: Json = runtime.read_info(folder)
    except runtime.ExportedModelError as error:
        raise InputError(str(error)) from error
    return info


def _export_of(source: str) -> Path:
    """Returns the export of a model: itself, or one in the cache, which is made if it is missing or damaged."""
    if (Path(source) / runtime.INFO_FILE).is_file():
        return Path(source)
    from continuous_unet.deploy.export import export
    from continuous_unet.deploy.options import ANY_STEPS, ExportOptions
    from continuous_unet.tasks.facts import read_facts
    from continuous_unet.tasks.saved import model_folder, read_index, trained_for

    place = model_folder(find_model(source))
    if (task := trained_for(read_index(place))) in NOT_ON_PAGES:
        raise InputError(f"{source} makes {NOT_ON_PAGES[task]}, and the page is for images; leave it out")
    target = cache_folder() / "exports" / _digest(place)
    try:
        runtime.read_info(target)
    except runtime.ExportedModelError:
        print(f"note: {source} is exported for the page, which takes a minute and is done once", file=sys.stderr)
        depth = None if read_facts(place).solver_steps is None else ANY_STEPS  # the page has a field for it
        export(ExportOptions(model=source, output=str(target), solver_steps=depth, repeats=0, overwrite=True))
    return target


def _digest(folder: Path) -> str:
    """Returns a name for the export of a model, by the contents of its files, but for its card, and this version."""
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:24]
