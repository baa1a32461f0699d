"""The page that runs exported models in a browser, as files: it needs no server except one for files."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from continuous_unet.base.files import replace_text
from continuous_unet.base.results import Json
from continuous_unet.deploy.standalone import runtime
from continuous_unet.deploy.web_runtime import copy_runtime

PAGE = Path(runtime.__file__).parent / "web"
PAGE_FILES = tuple(sorted(path.name for path in PAGE.iterdir() if path.suffix in (".html", ".css", ".js")))
MODELS_FILE = "models.json"
"""The file in which the page finds the models."""
RUNTIME_FOLDER = "ort"


def list_models(entries: Sequence[tuple[str, str]], where: str = "browser") -> list[Json]:
    """Returns the entries of some models in `models.json`: names, folders beside the page, and who computes."""
    return [{"name": name, "folder": folder, "where": where} for name, folder in entries]


def write_page(folder: Path, entries: Sequence[tuple[str, str]], ort: Path) -> None:
    """Writes the page, and onnxruntime-web for it.

    Args:
        folder: where it goes; the models lie there or below.
        entries: the names of the models, and their folders as the page sees them, such as `./`.
        ort: the folder of onnxruntime-web, see `find_runtime`.

    Raises:
        InputError: if it cannot be written.
    """
    for name in PAGE_FILES:
        shutil.copyfile(PAGE / name, folder / name)
    copy_runtime(ort, folder / RUNTIME_FOLDER)
    replace_text(folder / MODELS_FILE, json.dumps({"models": list_models(entries)}, indent=1) + "\n")
