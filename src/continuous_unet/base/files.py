"""Writing files: whole or not at all, and a clear error where the disk is full or the folder may not be written to."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from continuous_unet.base.errors import InputError


@contextlib.contextmanager
def explain_write_errors(target: str | os.PathLike) -> Iterator[None]:
    """Within, an error of the operating system becomes one that a person can act on.

    Raises:
        InputError: naming `target`, the reason and the remedy.
    """
    try:
        yield
    except Exception as error:
        # safetensors wraps the operating system's errors in its own
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(
            f"{target} cannot be written ({reason}); free some space or check the permissions, and go on"
        ) from error


def check_output(
    output: str | os.PathLike[str],
    *,
    overwrite: bool,
    mark: str | None = None,
    what: str = "result",
    instead: str = "choose another --output",
) -> Path:
    """Decides whether a result may be written, before the work begins; this is the one place that does.

    Args:
        output: the name of a file, or of a folder if there is a `mark`.
        overwrite: whether an earlier result may be replaced.
        mark: the file by which a folder is known to hold an earlier result.
        what: what an earlier result in a folder is called in errors.
        instead: what to do about an earlier result, for errors.

    Returns:
        The path.

    Raises:
        InputError: if an earlier result, or anything else, must not be replaced, or if nothing can be written there.
    """
    name = os.fspath(output)
    target, kind = Path(name), "file" if mark is None else "folder"
    if target.name in ("", "..") or "\0" in name:
        raise InputError(f"--output {name!r} cannot be written; name a new {kind}")
    if os.path.exists(target):
        if os.path.isdir(target) != (mark is not None):
            raise InputError(f"--output {target} is a {'folder' if mark is None else 'file'}; name a new {kind}")
        if mark is None or (target / mark).is_file():
            if not overwrite:
                holds = "exists already" if mark is None else f"holds a result already ({what})"
                raise InputError(f"{target} {holds}; {instead}, or allow it with --overwrite")
        elif any(target.iterdir()):
            raise InputError(f"--output {target} is not empty and holds no {what}; name a new folder")
    place = next(path for path in target.absolute().parents if os.path.exists(path))
    if not os.path.isdir(place) or not os.access(place, os.W_OK):
        raise InputError(f"cannot write into {target.parent}: {place} is not a folder that may be written to")
    return target


def replace_file(path: str | os.PathLike, write: Callable[[Path], object]) -> None:
    """Make a file anew by `write(aside)`: at every moment it is absent, the old one, or whole, also after a crash.

    Raises:
        InputError: if it cannot be written; what was there before is untouched.
    """
    target = Path(path)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with explain_write_errors(target):
        try:
            write(aside)
            sync(aside)
            os.replace(aside, target)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink()  # left over if something went wrong


def replace_text(path: str | os.PathLike, text: str) -> None:
    """`replace_file` by a text."""
    replace_file(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def replace_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Makes a folder anew with `write(aside)`: at every moment a whole one is there, or beside it as `.old`.

    Also after a crash, what is there is on the disk. The parent folder is made if it is missing.

    Raises:
        InputError: if it cannot be written; what was there before is untouched.
    """
    aside, old = target.with_name(target.name + ".tmp"), target.with_name(target.name + ".old")
    with explain_write_errors(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            write(aside)
            for path in (*(p for p in aside.rglob("*") if p.is_file()), aside):
                sync(path)
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(target, old)
            try:
                os.replace(aside, target)
            except OSError:
                if old.exists():
                    os.replace(old, target)
                raise
            sync(target.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
