"""Int8 exports are near the original, have float where it is wanted, and refuse what they cannot be fitted to."""

import subprocess
import sys
from collections import Counter, defaultdict
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.deploy.calibration import Origin, noised_images, open_for
from continuous_unet.deploy.export import export_model
from continuous_unet.deploy.network import prepare_network
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.quantization import calibration_inputs, quantize_openvino, quantize_pt2e
from continuous_unet.deploy.standalone.runtime import OPENERS
from continuous_unet.diffusion.process import process_of
from continuous_unet.training.quantization_aware import round_convolutions
from tests.deploy.conftest import continuous

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxscript", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="the export extra is not installed")
pytest.importorskip("sklearn", reason="the digits extra is not installed")

SMALL = {"block_out_channels": (16,), "mid_block_type": None, "num_solver_steps": 2, "num_class_embeds": 10}
STEPS = SMALL["num_solver_steps"]


def gentle(**options):
    """The weights make a network that is as well conditioned as trained ones."""
    unet = continuous(**{**SMALL, **options})
    for module in unet.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data *= 0.3
    return unet


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    """A class-conditional model, exported to ONNX in int8; not to be changed."""
    folder = tmp_path_factory.mktemp("int8") / "exported"
    options = ExportOptions(
        output=str(folder), precision="int8", calibration_data="digits", calibration_images=32, repeats=0
    )
    return folder, export_model(DiffusionSamplingPipeline(gentle(), DDPMScheduler()), options)


def weight_of(node, graph):
    """Name of the weight that a convolution reads, directly or through a dequantiser."""
    makers = {output: maker for maker in graph.node for output in maker.output}
    name = node.input[1]
    return makers[name].input[0] if name in makers else name


def test_quantization_aware_training_rounds_as_much_as_the_exported_network_does(int8):
    """It is evaluated on the calibration images. One layer's rounding moves the next one's: sizes are compared."""
    folder, _ = int8
    model = gentle()
    images = noised_images(open_for(model, "digits", Origin()), process_of(DDPMScheduler()), 32, with_labels=True)
    (inputs,) = calibration_inputs(images, 32)

    def predict():
        with torch.no_grad():
            return model(*map(torch.from_numpy, inputs.values())).sample.numpy()

    exact = predict()
    round_convolutions(model)
    simulated = np.std(predict() - exact)
    measured = np.std(OPENERS["onnx"](folder / "network.onnx", 1, list(inputs))(*inputs.values()) - exact)
    assert 0.85 < simulated / measured < 1.15


def test_all_convolutions_but_the_first_and_the_last_are_int8(int8):
    folder, _ = int8
    graph = onnx.load(folder / "network.onnx").graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    quantised = Counter()
    for node in graph.node:
        if node.op_type == "Conv":
            ends = "conv_in" in node.input[1] or "conv_out" in node.input[1]
            kinds = [makers.get(name) for name in node.input[:2]]
            assert kinds == ([makers.get(node.input[0]), None] if ends else ["DequantizeLinear", "DequantizeLinear"])
            quantised[weight_of(node, graph).removesuffix("_quantized")] += not ends
    steps = {count for name, count in quantised.items() if "trunk.conv1" in name}
    assert steps == {STEPS}  # unrolled: a field is read at every step, with ranges of its own
    types = {t.name: t.data_type for t in graph.initializer}
    assert types["unet.conv_in.weight"] == onnx.TensorProto.FLOAT
    assert any(kind == onnx.TensorProto.INT8 for name, kind in types.items() if "trunk.conv1.weight" in name)


def test_shared_weights_are_stored_once(int8):
    folder, _ = int8
    names = [t.name for t in onnx.load(folder / "network.onnx").graph.initializer if "trunk.conv1.weight" in t.name]
    assert len([name for name in names if name.endswith("_quantized")]) == 2  # down and up


def test_the_error_is_that_of_rounding_and_not_zero(int8):
    _, info = int8
    assert 1e-4 < info["parity"]["max_error"] < 0.3
    assert info["precision"] == "int8"


def test_openvino_int8(tmp_path):
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    pytest.importorskip("nncf", reason="the quantize extra is not installed")
    from continuous_unet.deploy.standalone.runtime import openvino_core

    info = export_model(
        DiffusionSamplingPipeline(gentle(num_class_embeds=None), DDPMScheduler()),
        ExportOptions(
            output=str(tmp_path / "out"), format="openvino", precision="int8", calibration_data="digits",
            calibration_images=32, repeats=0,
        ),
    )  # fmt: skip
    assert 1e-4 < info["parity"]["max_error"] < 0.3
    model = openvino_core().read_model(tmp_path / "out" / "network.xml")
    inputs = [
        node.input_value(0).get_node().get_type_name()
        for node in model.get_ops()
        if node.get_type_name() == "Convolution"
    ]
    assert inputs.count("FakeQuantize") >= len(inputs) - 3


def test_pt2e_quantises_each_step_of_a_field_by_its_own_ranges():
    pytest.importorskip("executorch", reason="the executorch extra is not installed")
    network = prepare_network(gentle(), ExportOptions(output="unused", format="executorch"))
    network.batch = 1
    calibration = [
        {one.name: t.numpy() for one, t in zip(network.inputs, network.example_inputs(seed=seed), strict=True)}
        for seed in range(4)
    ]
    module = quantize_pt2e(network.program(), calibration)
    ops = torch.ops.quantized_decomposed
    floats, ranges = [], defaultdict(set)
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default):
        x, weight = node.args[:2]
        if weight.op == "get_attr":
            floats.append(weight.target)
            continue
        assert x.target == ops.dequantize_per_tensor.default
        assert x.args[3:6] == (-128, 127, torch.int8)
        assert [user.target for user in node.users] == [ops.quantize_per_tensor.default]
        assert weight.target == ops.dequantize_per_channel.default
        values, scales, zeros = (getattr(module, part.target) for part in weight.args[:3])
        assert values.dtype == torch.int8
        assert len(scales) == len(values)
        assert not zeros.any()
        ranges[values.numpy().tobytes()].add(x.args[1])
    assert floats == ["unet.conv_in.weight", "unet.conv_out.weight"]
    fields = 2 * 3  # down and up, with three convolutions each; initial velocities and the merge are met once
    assert sorted(map(len, ranges.values())) == 3 * [1] + fields * [STEPS]
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default):
        assert node.args[1].op == "get_attr"  # the embedding stays in float


@pytest.mark.slow
def test_executorch_int8(tmp_path):
    pytest.importorskip("executorch", reason="the executorch extra is not installed")
    infos = {}
    for precision in ("fp32", "int8"):
        options = ExportOptions(output=str(tmp_path / precision), format="executorch", precision=precision, repeats=0)
        if precision == "int8":
            options.calibration_data, options.calibration_images = "digits", 32
        infos[precision] = export_model(DiffusionSamplingPipeline(gentle(), DDPMScheduler()), options)
    int8 = infos["int8"]
    assert int8["inputs"][0]["shape"] == [1, 1, 8, 8]
    assert 1e-4 < int8["parity"]["max_error"] < 0.3
    delegated = int8["delegation"]["delegated"]
    assert delegated["convolution"] == infos["fp32"]["delegation"]["delegated"]["convolution"]
    assert delegated["quantized_decomposed::dequantize_per_channel"] == delegated["convolution"] - 2
    left = int8["delegation"]["undelegated"]
    assert not [name for name in left if "conv" in name or "quantize" in name]
    assert int8["size_bytes"] < infos["fp32"]["size_bytes"]


def test_a_missing_torchao_is_named(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "executorch", ModuleType("executorch"))
    monkeypatch.setitem(sys.modules, "torchao", None)
    options = ["--format", "executorch", "--precision", "int8", "--calibration-data", "digits"]
    assert main(["export", str(model), "--output", str(tmp_path / "x"), *options]) == 2
    error = capsys.readouterr().err
    assert "needs torchao: pip install 'continuous-unet[executorch]'" in error
    assert error.count("\n") == 1


def test_other_formats_need_no_onnx():
    code = "import sys; sys.modules['onnx'] = None; import continuous_unet.deploy.export"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_openvino_ranges_cover_every_calibration_image():
    """Activations are larger at some timesteps than at others: a mean of ranges would cut those off."""
    ov = pytest.importorskip("openvino", reason="the openvino extra is not installed")
    pytest.importorskip("nncf", reason="the quantize extra is not installed")
    from openvino import opset13 as ops

    from continuous_unet.deploy.standalone.runtime import openvino_core

    generator = np.random.default_rng(0)
    sample = ops.parameter([1, 4, 8, 8], np.float32, name="sample")
    weight = ops.constant(generator.normal(size=(4, 4, 3, 3)).astype(np.float32), name="conv.weight")
    conv = ops.convolution(sample, weight, [1, 1], [1, 1], [1, 1], [1, 1])
    model = ov.Model([conv], [sample])
    images = generator.normal(size=(32, 1, 4, 8, 8)).astype(np.float32)
    images[0] *= 10
    outputs = [
        openvino_core().compile_model(m, "CPU")(images[0])[0]
        for m in (model, quantize_openvino(model, [{"sample": image} for image in images]))
    ]
    assert np.abs(outputs[0] - outputs[1]).max() < 0.05 * np.abs(outputs[0]).max()


def test_batches_are_whole():
    batch = {"sample": torch.zeros(10, 1, 8, 8), "timestep": torch.arange(10), "class_labels": torch.arange(10)}
    inputs = calibration_inputs(batch, 4)
    assert [i["timestep"].tolist() for i in inputs] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert inputs[0]["timestep"].dtype == np.float32
    assert inputs[0]["class_labels"].dtype == np.int64
    with pytest.raises(InputError, match="fewer than one batch of 11"):
        calibration_inputs(batch, 11)


@pytest.mark.parametrize("form", ["onnx", "executorch"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "needs --calibration-data"),
        (["--calibration-data", "shapes"], "3 channels and the model takes 1"),
        (["--calibration-data", "few"], "too few"),
        (["--calibration-data", "tiny"], "smaller than any"),
        (["--calibration-data", "digits", "--solver-loop", "loop"], "leave out --solver-loop loop"),
        (["--calibration-data", "nowhere"], "nowhere"),
    ],
)
def test_refused_in_one_line(model, tmp_path, monkeypatch, capsys, options, words, form):
    pytest.importorskip(form, reason=f"the {form} extra is not installed")
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "few.npz", images=np.zeros((5, 8, 8), np.uint8))
    np.savez(tmp_path / "tiny.npz", images=np.zeros((40, 4, 4), np.uint8))
    options = [f"{word}.npz" if word in ("few", "tiny") else word for word in options]
    asked = [str(model), "--format", form, "--precision", "int8", "--output", "out", *options]
    assert main(["export", *asked]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
