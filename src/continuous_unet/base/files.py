"""Files are written completely or not at all, with a clear error if the disk is full or permission is missing."""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePath

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


def check_output(
    output: str | os.PathLike[str],
    *,
    overwrite: bool,
    mark: str | None = None,
    what: str = "result",
    instead: str = "choose another --output",
) -> Path:
    """Decides whether a result may be written, before the work begins.

    Folders that a stopped work continues in decide for themselves: those of training runs and of comparisons.

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
        raise InputError(f"--output {name!r} cannot be created; name a new {kind}")
    if os.path.exists(target):
        if os.path.isdir(target) != (mark is not None):
            raise InputError(f"--output {target} is a {'folder' if mark is None else 'file'}; name a new {kind}")
        if mark is None or (target / mark).is_file():
            if not overwrite:
                there = "exists already" if mark is None else f"already holds a result ({what})"
                raise InputError(f"--output {target} {there}; {instead}, or replace it with --overwrite")
        elif any(target.iterdir()):
            raise InputError(f"--output {target} is not empty and is not an earlier {what}; name a new folder")
    place = next(path for path in target.absolute().parents if os.path.exists(path))
    if not os.path.isdir(place) or not os.access(place, os.W_OK):
        raise InputError(f"cannot write into {target.parent}: {place} is not a folder that may be written to")
    return target


def check_outputs(
    output: str | os.PathLike[str],
    names: Sequence[str | PurePath],
    endings: Collection[str],
    *,
    overwrite: bool,
    instead: str = "choose another --output",
) -> list[Path]:
    """Decides by `check_output` whether results may be written to one file, or to several in a folder.

    Args:
        output: a folder if it exists as one, ends with a slash, or has no ending; otherwise a file.
        names: names of the files in such a folder.
        endings: endings of the files that can be written, such as `.png`.
        overwrite: whether earlier results may be replaced.
        instead: what to do about an earlier result, for errors.

    Returns:
        The one file, or a path for each of the names.

    Raises:
        InputError: for another ending, and as `check_output`.
    """
    target = Path(output)
    if not os.fspath(output):
        raise InputError(f"--output is empty; name a {' or '.join(endings)} file, or a folder")
    if target.suffix and not os.fspath(output).endswith(("/", os.sep)) and not os.path.isdir(target):
        if not target.name.lower().endswith(tuple(endings)):
            raise InputError(
                f"--output {target}: expected a folder, which may end with /, or a name that ends in "
                f"{', '.join(endings)}"
            )
        return [check_output(target, overwrite=overwrite, instead=instead)]
    if os.path.exists(target) and not os.path.isdir(target):
        raise InputError(f"--output {target} is a file; name a new {' or '.join(endings)} file, or a folder")
    return [check_output(target / name, overwrite=overwrite, instead=instead) for name in names]


def replace_file(path: str | os.PathLike, write: Callable[[Path], object]) -> None:
    """Writes a file by `write(aside)` and moves it into place, so that even a crash leaves the old file or the new one.

    The folder is made if it is missing.

    Raises:
        InputError: if it cannot be written; an earlier file is untouched.
    """
    target = Path(path)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with explain_write_errors(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write(aside)
            sync(aside)
            os.replace(aside, target)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink()  # it still exists if something went wrong


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file as `replace_file` does; what UTF-8 cannot represent, as in some file names, is escaped."""
    replace_file(path, lambda aside: aside.write_text(text, "utf-8", "backslashreplace"))


def replace_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Replaces a folder with what `write(aside)` makes. At every moment there is a whole one, perhaps named `.old`.

    This holds after a crash, too, because files are synced to the disk. The parent folder is made if it is missing.

    Raises:
        InputError: if it cannot be written; an earlier folder is untouched.
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
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
