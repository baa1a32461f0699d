"""Files are written completely or not at all, with a clear error if the disk is full or permission is missing."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from continuous_unet.base.errors import InputError


@contextlib.contextmanager
def explain_write_errors(target: str | os.PathLike) -> Iterator[None]:
    """Inside this context, errors of the operating system are raised as errors that a person can act on.

    Raises:
        InputError: names `target`, the reason and the remedy.
    """
    try:
        yield
    except Exception as error:
        # safetensors wraps the operating system's errors in its own
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(
            f"{target} cannot be written ({reason}); free some space or check the permissions, and try again"
        ) from error


def folder_to_make(output: str, mark: str, what: str, *, overwrite: bool, or_else: str = "") -> Path:
    """Returns the folder that `--output` names, if it may be created or replaced.

    Args:
        output: the value of the option.
        mark: name of the file that identifies an earlier result.
        what: what errors call an earlier result, such as "export".
        overwrite: whether an earlier result may be replaced.
        or_else: an alternative that the error about an earlier result offers.

    Raises:
        InputError: if the folder holds something that must not be replaced, or if no folder can have that name.
    """
    target = Path(output)
    if target.name in ("", "..") or "\0" in output:
        raise InputError(f"--output {output!r} cannot be created; name a new folder")
    if os.path.isdir(target) and any(target.iterdir()):
        if not (target / mark).is_file():
            raise InputError(f"--output {target} is not empty and is not an earlier {what}; name a new folder")
        if not overwrite:
            raise InputError(
                f"--output {target} already holds a result ({what}); {or_else}name another folder, or "
                "replace it with --overwrite"
            )
    elif os.path.exists(target) and not os.path.isdir(target):
        raise InputError(f"--output {target} is a file; name a new folder")
    return target


def replace_file(path: str | os.PathLike, write: Callable[[Path], object]) -> None:
    """Writes a file by `write(aside)` and moves it into place, so that even a crash leaves the old file or the new one.

    Raises:
        InputError: if it cannot be written; an earlier file is untouched.
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
                aside.unlink()  # it is left over if something went wrong


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file as `replace_file` does; what UTF-8 cannot represent, as in some file names, is escaped."""
    replace_file(path, lambda aside: aside.write_text(text, "utf-8", "backslashreplace"))


def replace_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Writes a folder by `write(aside)` and moves it into place. A complete one always exists, perhaps as `.old`.

    Raises:
        InputError: if it cannot be written; an earlier folder is untouched.
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
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
