"""Quantises weights and activations to int8 after training, calibrated over the data and all timesteps.

Convolutions are quantised, because they have nearly all multiplications and most weights. The first and the last one,
which read and write pixels, and everything of the timestep's embedding stay in float. Each runtime's own tool does it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from continuous_unet.base.errors import InputError
from continuous_unet.base.packages import import_extra
from continuous_unet.deploy.network import INPUTS, quiet
from continuous_unet.training.quantization_aware import FLOAT_LAYERS

Calibration = Sequence[dict[str, np.ndarray]]
"""Inputs of the network by name, as they occur in sampling."""
CALIBRATION_BATCH = 16
"""The number of images in one pass, if the network accepts any number."""


def calibration_inputs(batch: dict[str, Tensor], batch_size: int) -> Calibration:
    """Returns the result of `noised_images` as inputs of the exported network, in whole batches.

    Raises:
        InputError: if there are too few images for one batch.
    """
    total = len(batch["sample"]) // batch_size * batch_size
    if total == 0:
        raise InputError(
            f"--calibration-data: {len(batch['sample'])} images are fewer than one batch of {batch_size}; give more"
        )
    inputs = {"sample": batch["sample"].numpy(), "timestep": batch["timestep"].float().numpy()}
    if "class_labels" in batch:
        inputs["class_labels"] = batch["class_labels"].numpy()
    starts = range(0, total, batch_size)
    return [{name: values[start : start + batch_size] for name, values in inputs.items()} for start in starts]


def quantize_onnx(
    single: Path, target: Path, calibration: Calibration, float_layers: tuple[str, ...] = FLOAT_LAYERS
) -> None:
    """Writes an int8 version of a float32 ONNX file (QDQ: each convolution is between dequantise and quantise).

    Activations are unsigned with one scale per tensor and solver step. Weights are signed with one scale per channel.
    The range of an activation is the whole range that the calibration shows.
    """
    import onnx
    import onnxruntime
    from onnxruntime import quantization

    batches = iter(calibration)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    graph = onnx.load(single).graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    kept = [node.name for node in convolutions if any(part in node.input[1] for part in float_layers)]
    onnxruntime.set_default_logger_severity(3)
    with quiet():
        quantization.quantize_static(
            single,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=kept,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
    onnxruntime.set_default_logger_severity(2)


def quantize_openvino(model: Any, calibration: Calibration) -> Any:
    """Returns an OpenVINO model with int8 convolutions, made by NNCF.

    Raises:
        InputError: if NNCF is not installed.
    """
    nncf = import_extra("nncf", "--format openvino --precision int8 needs nncf", "quantize")
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    convolutions = [node for node in model.get_ops() if node.get_type_name() == "Convolution"]
    weights = {node.get_friendly_name(): node.input_value(1).get_node().get_friendly_name() for node in convolutions}
    kept = [name for name, weight in weights.items() if any(part in weight for part in FLOAT_LAYERS)]
    scope = nncf.IgnoredScope(names=kept, types=["MatMul", "Add", "Multiply"], validate=False)
    with quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(calibration),
            subset_size=len(calibration),
            preset=nncf.QuantizationPreset.MIXED,  # unsigned activations, signed weights
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # the whole range; the default, the mean over inputs, cuts off values that are large at some timesteps
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            ),
            ignored_scope=scope,
        )


def quantize_pt2e(program: ExportedProgram, calibration: Calibration) -> nn.Module:
    """Returns a module with int8 convolutions, made by torchao, as XNNPACK computes them.

    Activations are signed with one scale per tensor and solver step. Weights are signed and symmetric with one scale
    per channel. XNNPACK chooses the range of an activation that costs least by rounding and clipping together.

    Args:
        program: the network, with every solver step written out.
        calibration: inputs in batches that the program accepts.

    Returns:
        The module, with the inputs of the program, to be traced again.
    """
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    def is_quantised(node: fx.Node) -> bool:  # called for convolutions, and for their weights and biases
        return node.op != "get_attr" or not any(part in str(node.target) for part in FLOAT_LAYERS)

    module = program.module()
    _read_weights_separately(module.graph)
    quantizer = xnnpack.XNNPACKQuantizer().set_filter_function(is_quantised)
    settings = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    quantizer.set_operator_type(torch.ops.aten.conv2d.default, settings)
    observed = prepare_pt2e(module, quantizer)
    names = [one.name for one in INPUTS]
    with torch.no_grad():
        for batch in calibration:
            observed(*(torch.from_numpy(batch[name]) for name in names if name in batch))
    return convert_pt2e(observed)


def _read_weights_separately(graph: fx.Graph) -> None:
    """Gives each convolution its own nodes that read its weight and bias.

    The quantiser skips a convolution if another one reads its weight: every solver step but the first would stay in
    float. In the file, equal weights are stored once.
    """
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default):
        for i in range(1, min(len(node.args), 3)):
            if isinstance(node.args[i], fx.Node) and node.args[i].op == "get_attr":
                with graph.inserting_before(node):
                    node.update_arg(i, graph.node_copy(node.args[i]))
