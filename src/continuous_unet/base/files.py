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


def folder_to_make(output: str, mark: str, what: str, *, overwrite: bool, or_else: str = "") -> Path:
    """The folder that `--output` names, if it may be made, or replaced.

    Args:
        output: what was given.
        mark: the file by which an earlier result is known.
        what: an earlier result is, for errors.
        overwrite: replace an earlier result.
        or_else: what could be done instead, for errors.

    Raises:
        InputError: if something is there that must not be replaced, or the name is none.
    """
    target = Path(output)
    if target.name in ("", "..") or "\0" in output:
        raise InputError(f"--output {output!r} cannot be made anew; name a new folder")
    if os.path.isdir(target) and any(target.iterdir()):
        if not (target / mark).is_file():
            raise InputError(f"--output {target} is not empty and holds no {what}; name a new folder")
        if not overwrite:
            raise InputError(
                f"--output {target} holds a result already ({what}); {or_else}name another, or allow it with "
                "--overwrite"
            )
    elif os.path.exists(target) and not os.path.isdir(target):
        raise InputError(f"--output {target} is a file; name a new folder")
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
    """Make a folder anew by `write(aside)`, so that a whole one is there (or beside it, as `.old`) at every moment.

    Raises:
        InputError: if it cannot be written; what was there before is untouched.
    """
    aside, old = target.with_name(target.name + ".tmp"), target.with_name(target.name + ".old")
    with explain_write_errors(target):
        try:
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
