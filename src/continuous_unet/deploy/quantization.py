"""Int8 weights and activations after training, calibrated over the data and all timesteps.

Convolutions are quantised: they have nearly all multiplications and most weights. The first and the last one, which see
and make pixels, and everything of the timestep's embedding stay in float. Each runtime's own tool does the work.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from continuous_unet.errors import InputError
from continuous_unet.training.quantization_aware import FLOAT_LAYERS

Calibration = Sequence[dict[str, np.ndarray]]
"""Inputs of the network by name, as they occur in sampling."""
CALIBRATION_BATCH = 16
"""Images of one pass, where the network takes any number."""


def calibration_inputs(batch: dict[str, Tensor], batch_size: int) -> Calibration:
    """What `noised_images` made, as inputs of the exported network, in whole batches.

    Raises:
        InputError: if there are too few images for one.
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
    """A float32 ONNX file to one of int8 (QDQ: a pair of quantise and dequantise around each convolution).

    Activations are unsigned with one scale a tensor and solver step, weights signed with one scale a channel. The range
    of an activation is what the calibration shows, all of it.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, np.ndarray]] = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    graph = onnx.load(single).graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    kept = [node.name for node in convolutions if any(part in node.input[1] for part in float_layers)]
    with _quiet():
        quantize_static(
            single,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=kept,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def quantize_openvino(model: Any, calibration: Calibration) -> Any:
    """An OpenVINO model to one with int8 convolutions, by NNCF.

    Raises:
        InputError: if NNCF is not installed.
    """
    try:
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    except ImportError as error:
        raise InputError(
            f"--format openvino --precision int8 needs nncf: pip install 'continuous-unet[quantize]' ({error})"
        ) from error
    nncf.set_log_level(logging.ERROR)
    convolutions = [node for node in model.get_ops() if node.get_type_name() == "Convolution"]
    kept = [n.get_friendly_name() for n in convolutions if any(p in _weight_name(n) for p in FLOAT_LAYERS)]
    scope = nncf.IgnoredScope(names=kept, types=["MatMul", "Add", "Multiply"], validate=False)
    with _quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(calibration),
            subset_size=len(calibration),
            preset=nncf.QuantizationPreset.MIXED,  # unsigned activations, signed weights
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # over everything: the mean of each input's range, its default, cuts off what is large at some timesteps
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            ),
            ignored_scope=scope,
        )


def _weight_name(node: Any) -> str:
    return node.input_value(1).get_node().get_friendly_name()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without remarks, and without progress bars on standard output, where JSON may be."""
    import onnxruntime

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(3)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
        onnxruntime.set_default_logger_severity(2)
