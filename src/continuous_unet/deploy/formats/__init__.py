"""What a model can be exported to, one file each: `write(network, folder, options) -> Written`.

A new format is a file here, an entry in `FORMATS`, a name in `ExportOptions.format`, and an entry in `FORMATS` of
`tests/deploy/test_export.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from continuous_unet.base.errors import InputError


@dataclass(frozen=True)
class Format:
    """Where a format lives and what it needs."""

    module: str
    """With `write(network, folder, options) -> Written`."""
    extra: str | None
    packages: tuple[str, ...]
    precisions: tuple[str, ...]
    loops: bool = False
    """Whether a solver's loop can stay a loop."""
    fixed_batch: bool = False
    """Whether the number of images must be known; it is one where nothing else is said."""


@dataclass
class Written:
    """What `write` left in the folder."""

    files: list[str]
    """Names; the first one is the network."""
    open: Callable[[Path, int | None], Callable[..., np.ndarray]]
    """From the network's path and a number of threads to a callable on arrays."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What goes into `export.json`: opset, operators, delegation."""


FORMATS = {
    "onnx": Format("to_onnx", "export", ("onnx", "onnxscript", "onnxruntime"), ("fp32", "fp16", "int8"), loops=True),
    "openvino": Format(
        "to_openvino", "openvino", ("onnx", "onnxscript", "openvino"), ("fp32", "fp16", "int8"), loops=True
    ),
    "executorch": Format("to_executorch", "executorch", ("executorch", "torchao"), ("fp32", "int8"), fixed_batch=True),
    "aoti": Format("to_aoti", None, (), ("fp32",)),
    "torch": Format("to_torch", None, (), ("fp32",)),
}
"""Formats by name."""


def find_format(name: str, precision: str) -> Format:
    """A format, whose packages are there, and which has that precision.

    Raises:
        InputError: naming the extra to install, or the precisions that there are.
    """
    found = FORMATS[name]
    if precision not in found.precisions:
        raise InputError(f"--precision {precision} is not for --format {name}, which has {', '.join(found.precisions)}")
    for package in found.packages:
        try:
            import_module(package)
        except ImportError as error:
            raise InputError(
                f"--format {name} needs {package}: pip install 'continuous-unet[{found.extra}]' ({error})"
            ) from error
    return found


def load_writer(found: Format) -> Callable[..., Written]:
    """The function that writes a format."""
    return import_module(f"{__name__}.{found.module}").write
