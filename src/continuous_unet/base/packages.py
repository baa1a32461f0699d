"""Packages that are only needed for some purposes, and not installed with the library."""

from importlib import import_module
from types import ModuleType

from continuous_unet.base.errors import InputError


def import_extra(package: str, wanting: str, extra: str) -> ModuleType:
    """Imports an optional package.

    Args:
        package: its name in Python.
        wanting: what needs it, as the beginning of the error's sentence: "pruning needs torch-pruning".
        extra: the extra of this library that installs it.

    Raises:
        InputError: if it cannot be imported, with the command that installs it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise InputError(f"{wanting}: pip install 'continuous-unet[{extra}]' ({error})") from error
