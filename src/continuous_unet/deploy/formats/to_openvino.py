"""OpenVINO's own files, for Intel's processors, graphics and NPUs, made from our ONNX graph.

OpenVINO also reads torch's exported programs. The way through ONNX takes seconds rather than a minute, and the same
graph is simplified and checked for both formats.
"""

from collections import Counter
from pathlib import Path

from openvino import save_model
from torch.export import ExportedProgram

from continuous_unet.deploy.formats import Written
from continuous_unet.deploy.formats.to_onnx import OPSET, part_to_onnx, to_onnx
from continuous_unet.deploy.network import ExportNetwork
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.quantization import quantize_openvino
from continuous_unet.deploy.standalone.runtime import open_openvino, openvino_core

FILE = "network.xml"


def write(network: ExportNetwork, folder: Path, options: ExportOptions) -> Written:
    """Writes `network.xml` and its weights, `network.bin`; the weights are float16 for `--precision fp16`."""
    model = openvino_core().read_model(to_onnx(network).SerializeToString())
    if options.precision == "int8":
        model = quantize_openvino(model, network.calibration)
    save_model(model, str(folder / FILE), compress_to_fp16=options.precision == "fp16")
    operators = dict(Counter(node.get_type_name() for node in model.get_ops()).most_common())
    return Written([FILE, "network.bin"], open_openvino, {"opset": OPSET, "operators": operators})


def write_part(program: ExportedProgram, folder: Path, stem: str, input_name: str, output_name: str) -> Written:
    """Writes a further graph, such as `text_encoder.xml` and its weights, float32."""
    model = openvino_core().read_model(part_to_onnx(program, stem, input_name, output_name).SerializeToString())
    save_model(model, str(folder / f"{stem}.xml"), compress_to_fp16=False)
    return Written([f"{stem}.xml", f"{stem}.bin"], open_openvino)
