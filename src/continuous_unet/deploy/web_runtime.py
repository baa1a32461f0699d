"""onnxruntime-web, which runs models in a browser: fetched once, checked, and kept in the user's cache.

It belongs neither to the package nor to the repository: its WebAssembly is larger than all the rest.
"""

import base64
import hashlib
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import explain_write_errors, replace_folder
from continuous_unet.base.options import Options, option
from continuous_unet.base.results import CallResult

VERSION = "1.30.0"
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""What the npm registry says about the archive, as npm writes it: the base64 form of its SHA-512."""
PROCESSOR = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""The files that every page needs."""
GRAPHICS = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""Those that a browser loads only if the graphics card is chosen."""
LARGEST_ARCHIVE = 2**28


@dataclass
class FetchOptions(Options):
    """Options of `fetch_runtime`."""

    archive: str | None = option(
        None, "the npm archive on this machine, instead of fetching it from the registry", metavar="FILE"
    )


@dataclass
class FetchResult(CallResult):
    """The result of `fetch_runtime`."""

    folder: str
    size_bytes: int

    def to_text(self) -> str:
        return f"onnxruntime-web {VERSION}, {self.size_bytes / 2**20:.0f} MiB: {self.folder}"


def cache_folder() -> Path:
    """Returns the folder in which this library keeps what can be made or fetched again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "continuous-unet"


def runtime_folder() -> Path:
    """Returns the place of the pinned onnxruntime-web, whether it is there or not."""
    return cache_folder() / f"onnxruntime-web-{VERSION}"


def fetch_runtime(options: FetchOptions) -> FetchResult:
    """Fetches onnxruntime-web from the npm registry, checks its hash, and keeps the files that pages need.

    Raises:
        InputError: if it cannot be reached, is not the archive that is expected, or cannot be written.
    """
    options.validate()
    content = _read(options.archive) if options.archive is not None else _download()
    found = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    source = options.archive or ADDRESS
    if found != INTEGRITY:
        raise InputError(
            f"{source} is not onnxruntime-web {VERSION}: its hash is {found[:19]}…, expected {INTEGRITY[:19]}…; "
            "fetch it again, or name the archive of this version with --archive"
        )
    target = runtime_folder()

    def write(folder: Path) -> None:
        folder.mkdir()
        with tarfile.open(fileobj=BytesIO(content), mode="r:gz") as archive:
            for name in (*PROCESSOR, *GRAPHICS):
                member = archive.extractfile(f"package/dist/{name}")
                assert member is not None  # the hash says what is inside
                (folder / name).write_bytes(member.read())

    replace_folder(target, write)
    return FetchResult(str(target), sum(path.stat().st_size for path in target.iterdir()))


def _read(archive: str) -> bytes:
    try:
        return Path(archive).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"--archive {archive} cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _download() -> bytes:
    try:
        with urllib.request.urlopen(ADDRESS, timeout=60) as answer:
            content: bytes = answer.read(LARGEST_ARCHIVE)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{ADDRESS} cannot be reached ({reason}); fetch it elsewhere and give it as --archive"
        ) from error
    return content


def find_runtime(folder: str | None) -> Path:
    """Returns the folder of onnxruntime-web: the one that is named, or the one in the cache.

    Raises:
        InputError: if it is not there.
    """
    place = runtime_folder() if folder is None else Path(folder)
    missing = next((name for name in PROCESSOR if not (place / name).is_file()), None)
    if missing is None:
        return place
    if folder is None:
        raise InputError(
            "pages need onnxruntime-web: fetch it once with `cunet app fetch`, or name its folder with --ort-dir"
        )
    raise InputError(
        f"--ort-dir {folder}: {missing} is missing; name the folder `dist` of the npm package onnxruntime-web"
    )


def copy_runtime(source: Path, target: Path) -> None:
    """Copies the files that pages need; those for the graphics card only if they are there."""
    with explain_write_errors(target):
        target.mkdir(parents=True)
        for name in (*PROCESSOR, *GRAPHICS):
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
