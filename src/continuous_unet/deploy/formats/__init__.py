"""The formats that a model can be exported to. Each is a file here: `write(network, folder, options) -> Written`.

A new format is a file here, an entry in `FORMATS`, and one in `FORMATS` of `tests/deploy/test_export.py`. Imports
neither torch nor NumPy: the command line reads the table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from continuous_unet.base.packages import import_extra
from continuous_unet.base.results import Json

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from continuous_unet.deploy.network import ExportNetwork
    from continuous_unet.deploy.options import ExportOptions
    from continuous_unet.deploy.standalone.runtime import Network

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Format:
    """One format: its module, what it needs, and what it can do."""

    module: str
    """The file here that has its `write`."""
    extra: str | None
    """The extra of this library that installs its packages."""
    packages: tuple[str, ...]
    precisions: tuple[str, ...]
    loops: bool = False
    """Whether a solver's loop can stay a loop."""
    fixed_batch: bool = False
    """Whether the number of images is fixed; it is one unless a shape is given."""
    any_size: bool = False
    """Whether restoration models accept images of any size if no shape is given."""
    parts: bool = False
    """Whether an export can have further graphs: a text encoder, a codec."""
    web: bool = False
    """Whether the browser page runs it."""


@dataclass
class Written:
    """The result of a writer."""

    files: list[str]
    """The names of the files in the folder; the first one is the network."""
    open: "Callable[[Path, int | None, Sequence[str]], Network]"
    """Opens the network at a path with a number of threads, for inputs of these names in this order."""
    facts: Json = field(default_factory=dict)
    """Further entries of `export.json`: opset, operators, delegation."""


class Writer(Protocol):
    """Writes a network to a folder in one format."""

    def __call__(self, network: "ExportNetwork", folder: Path, options: "ExportOptions") -> Written:
        """Raises InputError for a network that the format cannot hold."""


class PartWriter(Protocol):
    """Writes a further graph to a folder, such as a text encoder; the module of a format that can has `write_part`."""

    def __call__(
        self, program: "ExportedProgram", folder: Path, stem: str, input_name: str, output_name: str, /
    ) -> Written:
        """Writes files that are named after `stem`, of one input and one output, float32.

        Raises:
            InputError: for a graph that the format cannot hold.
        """


FORMATS = {
    "onnx": Format(
        "to_onnx",
        "export",
        ("onnx", "onnxscript", "onnxruntime"),
        PRECISIONS,
        loops=True,
        any_size=True,
        parts=True,
        web=True,
    ),
    "openvino": Format(
        "to_openvino", "openvino", ("onnx", "onnxscript", "openvino"), PRECISIONS, loops=True, any_size=True, parts=True
    ),
    "executorch": Format("to_executorch", "executorch", ("executorch", "torchao"), ("fp32", "int8"), fixed_batch=True),
    "aoti": Format("to_aoti", None, (), ("fp32",)),
    "torch": Format("to_torch", None, (), ("fp32",)),
}
"""Formats by name."""


def load_writer(name: str) -> Writer:
    """Returns the writer of a format.

    Raises:
        InputError: if a package is missing, naming the extra to install.
    """
    found = FORMATS[name]
    for package in found.packages:
        import_extra(package, f"--format {name} needs {package}", str(found.extra))
    writer: Writer = import_module(f"{__name__}.{found.module}").write
    return writer


def load_part_writer(name: str) -> PartWriter | None:
    """Returns what writes further graphs in a format; None for a format that holds networks alone."""
    if not FORMATS[name].parts:
        return None
    found: PartWriter = import_module(f"{__name__}.{FORMATS[name].module}").write_part
    return found
