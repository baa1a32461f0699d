"""ONNX, written by torch's own exporter, for ONNX Runtime and everything else that reads it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from google.protobuf.message import Message
from torch.export import ExportedProgram

from continuous_unet.deploy.formats import Written
from continuous_unet.deploy.formats.onnx_rewrites import simplify
from continuous_unet.deploy.network import ExportNetwork, explained
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.quantization import Calibration, quantize_onnx
from continuous_unet.deploy.standalone.runtime import open_onnx

OPSET = 20
"""The version of the operators, which ONNX Runtime, OpenVINO and onnxruntime-web read."""
FILE = "network.onnx"


def write(network: ExportNetwork, folder: Path, options: ExportOptions) -> Written:
    """Writes `network.onnx`."""
    model = to_onnx(network)
    path = folder / FILE
    onnx.save(model, path)
    if options.precision != "fp32":
        single = folder / "float32.onnx"
        path.rename(single)
        PRECISIONS[options.precision](single, path, network.calibration)
        single.unlink()
        model = onnx.load(path)
    return Written([FILE], open_onnx, {"opset": OPSET, "operators": count_operators(model)})


def to_onnx(network: ExportNetwork) -> onnx.ModelProto:
    """Returns the network as ONNX, float32, simplified, without traces of the machine that it was made on.

    Raises:
        InputError: if an operation has no ONNX counterpart.
    """
    model = program_to_onnx(network.program(), [one.name for one in network.inputs])
    _name_axes(model, network)
    return model


def program_to_onnx(program: ExportedProgram, names: list[str]) -> onnx.ModelProto:
    """Returns a network with inputs of these names as ONNX; see `to_onnx`."""
    with explained("be exported to ONNX", "torch.onnx"):
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=names, output_names=["prediction"], verbose=False
        )
        assert exported is not None
        model = simplify(exported.model_proto)
    strip_metadata(model)
    onnx.checker.check_model(model)
    return model


def write_part(program: ExportedProgram, folder: Path, stem: str, input_name: str, output_name: str) -> Written:
    """Writes a further graph, such as `text_encoder.onnx`, float32."""
    onnx.save(part_to_onnx(program, stem, input_name, output_name), folder / f"{stem}.onnx")
    return Written([f"{stem}.onnx"], open_onnx)


def part_to_onnx(program: ExportedProgram, stem: str, input_name: str, output_name: str) -> onnx.ModelProto:
    """Returns a further graph as ONNX, without traces of the machine that it was made on."""
    with explained(f"be exported to ONNX with its {stem.replace('_', ' ')}", "torch.onnx"):
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=[output_name],
            verbose=False,
        )
        assert exported is not None
    model = exported.model_proto
    strip_metadata(model)
    onnx.checker.check_model(model)
    return model


def strip_metadata(message: Message) -> None:
    """Removes stack traces, documentation and other text without effect, in place and at every depth.

    The exporter notes on each node the file and the line that it came from. That is most of an unrolled network's
    size, and names folders of the machine.
    """
    for descriptor, value in message.ListFields():
        if descriptor.name in ("metadata_props", "doc_string"):
            message.ClearField(descriptor.name)
        elif descriptor.message_type is not None:
            for part in value if hasattr(value, "add") else [value]:
                strip_metadata(part)


def _name_axes(model: onnx.ModelProto, network: ExportNetwork) -> None:
    """Gives the free axes of inputs and outputs the names that export.json uses."""
    shapes = [*(one.shape(network) for one in network.inputs), network.axes()]
    for value, axes in zip([*model.graph.input, *model.graph.output], shapes, strict=True):
        for axis, dim in zip(axes, value.type.tensor_type.shape.dim, strict=True):
            if isinstance(axis, str):
                dim.dim_param = axis


def count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """Returns the number of times that each operator occurs; those inside loops count once."""
    counts: Counter[str] = Counter()

    def count(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            counts[node.op_type] += 1
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    count(attribute.g)

    count(model.graph)
    return dict(counts.most_common())


def _to_half(single: Path, target: Path, calibration: Calibration) -> None:
    """Writes a network with weights and computation in float16, and inputs and outputs in float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(single), keep_io_types=True)
    strip_metadata(model)
    onnx.save(model, target)


PRECISIONS: dict[str, Callable[[Path, Path, Calibration], None]] = {"fp16": _to_half, "int8": quantize_onnx}
"""Functions that make a file of another precision from a float32 ONNX file and calibration inputs, by precision."""
