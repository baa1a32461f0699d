"""Exports compute what PyTorch does, hold each weight once and no word of this machine, and fail whole."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.deploy.export import ExportResult, export_model
from continuous_unet.deploy.formats.to_torch import open_torch
from continuous_unet.deploy.network import prepare_network
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.parity import ParityError
from continuous_unet.deploy.standalone import runtime
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.samplers import set_timesteps
from continuous_unet.diffusion.table import TableSampler
from continuous_unet.tasks.facts import Facts, SamplerFacts, SolverStepFacts
from continuous_unet.tasks.generate.pipeline import own_tables
from tests.deploy.conftest import conditional, continuous, discrete, pipeline

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxscript", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="the export extra is not installed")


SMALL = {"block_out_channels": (8,), "mid_block_type": None, "num_solver_steps": 1}
"""The smallest model that has every part, because tracing takes longer than anything else here."""


def export(unet, folder, **options):
    return export_model(pipeline(unet), ExportOptions(output=str(folder), **{"repeats": 0, **options}))


def graph(unet, **options):
    from continuous_unet.deploy.formats.to_onnx import to_onnx

    return to_onnx(prepare_network(unet, ExportOptions(output="unused", **options)))


def prediction(unet, *inputs):
    with torch.no_grad():
        return unet(*map(torch.as_tensor, inputs)).sample.numpy()


def test_export_json_tells_what_was_made(exported, info):
    assert info["inputs"] == [
        {"name": "sample", "dtype": "float32", "shape": ["batch", 1, 8, 8]},
        {"name": "timestep", "dtype": "float32", "shape": ["batch"]},
    ]
    assert info["outputs"] == [{"name": "prediction", "dtype": "float32", "shape": ["batch", 1, 8, 8]}]
    assert info["opset"] == 20
    assert info["model"]["parameters"] == sum(p.numel() for p in continuous().parameters())
    assert info["model"]["solver"] == "unrolled"
    assert info["scheduler"]["_class_name"] == "DDPMScheduler"
    assert info["scheduler"]["prediction_type"] == "v_prediction"
    assert info["size_bytes"] == (exported / "network.onnx").stat().st_size
    assert {entry["batch_size"] for entry in info["parity"]["inputs"]} == {1, 3}
    assert info["parity"]["short_sampling"]["steps"] == 3
    assert info["parity"]["full_sampling"]["steps"] == 20
    assert 0 < info["parity"]["max_error"] < 1e-5
    assert info["latency"]["ratio"] > 0
    model = onnx.load(exported / "network.onnx")
    assert [value.name for value in model.graph.input] == ["sample", "timestep"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert sorted(p.name for p in exported.iterdir()) == ["export.json", "network.onnx", "runtime.py"]


def test_the_network_is_the_model_at_timesteps_of_its_own(exported):
    """The images are those of other inputs than the export measured, and more than a trace covers."""
    model, unet = runtime.load(exported), continuous()
    x = np.random.default_rng(1).standard_normal((70, 1, 8, 8)).astype(np.float32)
    timesteps = np.linspace(0, 999, 70).round().astype(np.float32)
    assert np.abs(model(x, timesteps) - prediction(unet, x, timesteps)).max() < 1e-5
    assert np.abs(prediction(unet, x, timesteps)).max() > 0.1


CASES = {
    "class-conditional": (lambda: continuous(**SMALL, num_class_embeds=3), {}),
    "any size": (lambda: continuous(**{**SMALL, "block_out_channels": (8, 8)}, patch_size=2), {"any_size": True}),
    "static": (lambda: continuous(**SMALL), {"static_shape": "2x16x8"}),
    "paper": (lambda: continuous(**SMALL, method="rk4", gradient="checkpoint", field_type="general"), {}),
    "drift-kick-drift": (lambda: continuous(**SMALL, method="drift_kick_drift"), {}),
    "other steps": (lambda: continuous(**SMALL, field_type="separable"), {"solver_steps": 2}),
    "waves": (lambda: continuous(attention_type="waves", block_out_channels=(8, 8)), {"any_size": True}),
    "gradient field": (lambda: continuous(**SMALL, field_type="gradient"), {}),
    "control": (lambda: continuous(**SMALL, block_type="residual", gradient="backprop"), {}),
    "UNet2DModel": (discrete, {}),
    "float16": (lambda: continuous(**SMALL), {"precision": "fp16"}),
}


SLOW_CASES = ("paper", "drift-kick-drift", "other steps", "control")


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW_CASES else c for c in CASES])
def test_every_kind_of_model_and_shape(case, tmp_path):
    make, options = CASES[case]
    unet = make()
    info = export(unet, tmp_path / "x", **options)
    model = runtime.load(tmp_path / "x")
    if "solver_steps" in options:
        unet.set_solver(num_steps=options["solver_steps"])
    batch, height, width = ExportOptions(output="x", **options).shape() or (2, 8, 8)
    sizes = [(height, width), (16, 24)] if "any_size" in options else [(height, width)]
    half = case == "float16"
    for size in sizes:
        x = np.random.default_rng(1).standard_normal((batch, 1, *size)).astype(np.float32)
        inputs = [x, np.array([10, 800], np.float32)]
        if case == "class-conditional":
            inputs.append(np.array([0, 2]))
        result, expected = model(*inputs), prediction(unet, *inputs)
        assert np.abs(result - expected).max() < (2e-2 if half else 1e-5) * max(1, np.abs(expected).max())
    assert info["parity"]["max_error"] < (2e-2 if half else 1e-5)
    if half:
        assert info["inputs"][0]["dtype"] == "float32"
        tensors = onnx.load(tmp_path / "x" / "network.onnx").graph.initializer
        assert sum(len(t.raw_data) for t in tensors) < 2.2 * info["model"]["parameters"]
    if case in ("static", "UNet2DModel"):
        with pytest.raises(runtime.ExportedModelError, match="was exported for"):
            model(np.zeros((1, 1, 24, 24), np.float32), 0)


def test_a_flow_matching_model_is_sampled_by_its_export(tmp_path):
    options = ExportOptions(output=str(tmp_path / "x"), format="torch", repeats=0)
    made = DiffusionSamplingPipeline(continuous(**SMALL), FlowMatchEulerDiscreteScheduler(shift=2.0))
    info = export_model(made, options)
    assert info["schedule"]["process"] == "flow"
    assert info["parity"]["short_sampling"]["sampler"] == "euler"
    noise = runtime.normal_noise(5, 0, (1, 8, 8))[None]
    sampler, x = process_of(made.scheduler).make_sampler(), torch.tensor(noise)
    set_timesteps(sampler, 4)
    for time in sampler.timesteps:
        with torch.no_grad():
            x = sampler.step(made.unet(x, time).sample, time, x).prev_sample
    exported = runtime.ExportedModel(open_torch(tmp_path / "x" / "network.pt2"), info)
    images = runtime.generate(exported, 1, steps=4, seed=5)
    np.testing.assert_allclose(images, (x.numpy() / 2 + 0.5).clip(0, 1), rtol=0, atol=1e-5)


def test_a_distilled_model_is_sampled_by_its_export(tmp_path):
    """It is told where each evaluation jumps to, and knows its own numbers of steps."""
    unet = continuous(**SMALL, next_timestep_embedding=True)
    torch.nn.init.normal_(unet.jump_embedding.linear_2.weight, std=0.3)
    facts = Facts(sampler=SamplerFacts(((900.5,), (900.5, 400.25)), distilled=True))
    made = DiffusionSamplingPipeline(unet, DDPMScheduler(), facts)
    info = export_model(made, ExportOptions(output=str(tmp_path / "x"), format="torch", repeats=0))
    assert info["only_tables"]
    noise = runtime.normal_noise(5, 0, (1, 8, 8))[None]
    process = process_of(made.scheduler)
    sampler, x = TableSampler(process, own_tables(facts, process)), torch.tensor(noise)
    sampler.set_timesteps(2)
    for time, following in zip(sampler.timesteps, sampler.next_timesteps, strict=True):
        with torch.no_grad():
            x = sampler.step(unet(x, time, next_timestep=following).sample, time, x).prev_sample
    exported = runtime.ExportedModel(open_torch(tmp_path / "x" / "network.pt2"), info)
    images = runtime.generate(exported, 1, seed=5)
    np.testing.assert_allclose(images, (x.numpy() / 2 + 0.5).clip(0, 1), rtol=0, atol=1e-5)
    with pytest.raises(runtime.ExportedModelError, match="distilled for 1, 2 sampling steps, not 50"):
        runtime.generate(exported, 1, steps=50)
    with pytest.raises(runtime.ExportedModelError, match="ddim: this model was distilled"):
        runtime.generate(exported, 1, sampler="ddim")


@pytest.mark.parametrize("num_steps", [1, 4])
def test_each_weight_is_there_once_and_nothing_of_this_machine(num_steps):
    unet = continuous(**{**SMALL, "block_out_channels": (32,), "num_solver_steps": num_steps})
    model = graph(unet)
    weights = sum(p.numel() * 4 for p in unet.parameters())
    initializers = sum(onnx.numpy_helper.to_array(t).nbytes for t in model.graph.initializer)
    assert weights * 0.97 < initializers < weights * 1.05
    content = model.SerializeToString()
    for word in (str(Path.home()), str(Path(__file__).parents[2]), "site-packages", "continuous_unet/", ".py"):
        assert word.encode() not in content, f"{word} is in the exported file"
    assert b"metadata_props" not in content
    assert all(not node.metadata_props and not node.doc_string for node in model.graph.node)


def test_a_loop_does_not_grow_with_the_steps_and_computes_the_same(tmp_path):
    from continuous_unet.deploy.formats.to_onnx import count_operators

    six, nine = (continuous(**{**SMALL, "num_solver_steps": n}, method="reversible_leapfrog") for n in (6, 9))
    info = export(six, tmp_path / "x")
    assert info["model"]["solver"] == "loop"
    assert info["operators"]["Loop"] == 2  # one for each block
    assert info["operators"] == count_operators(graph(nine))
    assert info["parity"]["max_error"] < 1e-5


def test_the_number_of_solver_steps_is_an_input(tmp_path):
    unet = continuous(**SMALL, elastic_depth=True, integration_time=2.0)
    made = pipeline(unet)
    table = SolverStepFacts(timesteps=1000, steps=(1, 4), depths=(1, 4), losses=((1.0, 1.0),) * 2)
    made.facts = Facts(solver_steps=table)
    info = export_model(made, ExportOptions(output=str(tmp_path / "x"), repeats=0, solver_steps="any"))
    assert info["inputs"][-1] == {"name": "num_solver_steps", "dtype": "int64", "shape": [], "default": 1}
    model, x = runtime.load(tmp_path / "x"), np.random.default_rng(1).standard_normal((2, 1, 8, 8)).astype(np.float32)
    for number in (1, 3, 8):
        with torch.no_grad():
            expected = unet(torch.tensor(x), torch.tensor([5.0, 900.0]), num_solver_steps=number).sample.numpy()
        assert np.abs(model(x, [5, 900], num_solver_steps=number) - expected).max() < 1e-5
    told = runtime.with_depth(model, model, "auto")
    for timestep, number in ((100, 1), (900, 4)):
        assert np.array_equal(told(x, timestep), model(x, timestep, num_solver_steps=number))
        assert table.at(timestep) == number
    files = []
    for steps in ("1", "4"):
        files.append(tmp_path / f"{steps}.png")
        words = ["run", str(tmp_path / "x"), "--steps", "2", "--num", "1", "--solver-steps", steps]
        assert main([*words, "--output", str(files[-1])]) == 0
    assert files[0].read_bytes() != files[1].read_bytes()


def operations_on_maps(model) -> int:
    """Additions and multiplications whose result is a feature map."""
    values = onnx.shape_inference.infer_shapes(model).graph.value_info
    sides = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][2:] for v in values}
    return sum(
        node.op_type in ("Mul", "Add") and min(sides.get(node.output[0]) or [1]) > 1 for node in model.graph.node
    )


def test_norms_and_clocks_are_merged(monkeypatch):
    """Three operations over whole maps fewer at each solver step, and the factor of the rate is one number."""
    from continuous_unet.deploy.formats import to_onnx as module

    cheaper = operations_on_maps(graph(continuous(**SMALL)))
    monkeypatch.setattr(module, "simplify", lambda model: model)
    plain = operations_on_maps(graph(continuous(**SMALL)))
    blocks = 2
    assert plain - cheaper == (3 + 1) * blocks


def test_a_wrong_network_is_noticed_and_nothing_is_left(model, tmp_path, monkeypatch, capsys):
    """The exporter is made to lose one weight in a hundred."""
    from continuous_unet.deploy.formats import to_onnx as module

    def lose(graph):
        for tensor in graph.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor).copy()
            if array.ndim == 4:
                array.reshape(-1)[::100] = 0
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        return graph

    monkeypatch.setattr(module, "simplify", lose)
    options = ["--output", str(tmp_path / "x"), "--repeats", "0", "--solver-steps", "1"]
    assert main(["export", str(model), *options]) == 1
    error = capsys.readouterr().err
    assert "differs from PyTorch by" in error
    assert "tolerance of 0.0001" in error
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_old_one(exported, tmp_path):
    import shutil

    folder = shutil.copytree(exported, tmp_path / "x")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ParityError):
        export(continuous(**SMALL), folder, tolerance=1e-12, overwrite=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def sampled_by_torch(pipe, *, label, prompt, negative, scale, seed, steps):
    """Images of one class and prompt, by two evaluations of the model at each step."""
    encoder, unet = pipe.facts.text.make_encoder(), pipe.unet

    def evaluate(x, timestep, number, text):
        conditions = {
            name: value.expand(len(x), *value.shape[1:]) for name, value in encoder.encode([text], unet).items()
        }
        labels = torch.full((len(x),), number)
        with torch.no_grad():
            return unet(torch.tensor(x), timestep, class_labels=labels, **conditions).sample.numpy()

    def network(x, timestep, class_labels):
        free = evaluate(x, timestep, 2, negative)
        return free + scale * (evaluate(x, timestep, label, prompt) - free)

    schedule = runtime.read_schedule({"schedule": process_of(pipe.scheduler).describe()})
    noise = np.stack([runtime.normal_noise(seed, k, (1, 8, 8)) for k in range(2)])
    return (runtime.sample(network, schedule, noise, steps) / 2 + 0.5).clip(0, 1)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_classes_prompts_and_guidance(name, tmp_path):
    pytest.importorskip(name, reason=f"the {name} extra is not installed")
    pipe = conditional()
    info = export_model(pipe, ExportOptions(output=str(tmp_path / "x"), repeats=0, format=name))
    assert info["parity"]["max_error"] < 1e-5
    assert info["conditions"]["text"]["max_error"] < 1e-5
    assert info["conditions"]["classes"] == ["cat", "dog"]
    model = runtime.load(tmp_path / "x")
    request = {"prompt": "a red circle", "seed": 3, "steps": 4}
    made = runtime.generate(model, 2, class_label="dog", negative_prompt="a blue square", **request)
    expected = sampled_by_torch(pipe, label=1, negative="a blue square", scale=2.5, **request)
    assert np.abs(made - expected).max() < 1e-4
    for more in ({}, {"class_label": "dog", "guidance_scale": 1.0}, {"class_label": "cat"}):
        assert np.abs(runtime.generate(model, 2, **{**request, **more}) - expected).max() > 1e-3
    (tmp_path / "x" / "vocabulary.json").write_text("[]")
    with pytest.raises(runtime.ExportedModelError, match=r"vocabulary.json is not as it was exported"):
        runtime.load(tmp_path / "x")


def test_prompts_that_are_encoded_elsewhere(tmp_path):
    """A format of networks alone, and a model whose encoder is one of transformers."""
    pipe = conditional()
    alone = export_model(pipe, ExportOptions(output=str(tmp_path / "x"), repeats=0, format="torch"))
    assert "text" not in alone["conditions"]
    assert "prompts must be encoded elsewhere" in ExportResult("x", alone).notes()[0]
    assert not any("text_encoder" in name for name in torch.export.load(tmp_path / "x" / "network.pt2").state_dict)
    model = runtime.ExportedModel(open_torch(tmp_path / "x" / "network.pt2"), alone)
    states, mask = np.ones((8, 16), np.float32), np.arange(8) < 3
    given = runtime.generate(model, 1, prompt=(states, mask), steps=1, guidance_scale=1.0)
    assert (
        np.abs(given - runtime.generate(model, 1, prompt=(2 * states, mask), steps=1, guidance_scale=1.0)).max() > 1e-4
    )
    with pytest.raises(runtime.ExportedModelError, match="has no text encoder: its prompts are encoded elsewhere"):
        runtime.generate(model, 1, prompt="a red circle")
    for options, message in (
        ({"precision": "int8", "calibration_data": "digits"}, "int8 is not for models that read text"),
    ):
        with pytest.raises(InputError, match=message):
            export_model(pipe, ExportOptions(output="unused", **options))


class Restoration(DiffusionPipeline):
    """The models are like those of trained denoisers and upscalers."""

    _optional_components = ["scheduler"]  # noqa: RUF012 (diffusers' name and kind)

    def __init__(self, unet, scheduler=None, task="denoise", **options):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(**options)
        self.task = task


def test_models_for_restoration(tmp_path):
    blind = Restoration(continuous(**SMALL), sigma_conditioned=True)
    info = export_model(blind, ExportOptions(output=str(tmp_path / "denoise"), repeats=0))
    assert info["schedule"] is None
    assert "full_sampling" not in info["parity"]
    noisy = np.random.default_rng(0).uniform(size=(1, 1, 9, 11)).astype(np.float32)
    clean = runtime.denoise(runtime.load(tmp_path / "denoise"), noisy, 25)
    whole = torch.tensor(noisy) * 2 - 1
    expected = (whole - blind.unet(whole, 25).sample) / 2 + 0.5
    assert np.abs(clean - expected.detach().clamp(0, 1).numpy()).max() < 1e-5

    scheduler = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    larger = Restoration(continuous(**SMALL, in_channels=2), scheduler, task="upscale", scale=3)
    info = export_model(larger, ExportOptions(output=str(tmp_path / "upscale"), repeats=0))
    assert info["options"] == {"scale": 3, "residual_scale": 4.0}
    result = runtime.upscale(runtime.load(tmp_path / "upscale"), noisy)
    enlarged = torch.nn.functional.interpolate(torch.tensor(noisy), scale_factor=3, mode="bicubic", antialias=True)
    condition = enlarged * 2 - 1
    residual = -larger.unet(torch.cat([torch.zeros_like(condition), condition], dim=1), 999).sample / 4
    assert np.abs(result - ((condition + residual) / 2 + 0.5).detach().clamp(0, 1).numpy()).max() < 1e-5

    with pytest.raises(InputError, match="cannot be exported"):
        export_model(Restoration(continuous(**SMALL), task="inpaint"), ExportOptions(output="unused"))


FORMATS = {
    "openvino": ({}, lambda: continuous(**SMALL, num_class_embeds=3), ("network.bin", "network.xml")),
    "openvino fp16": ({"precision": "fp16"}, lambda: continuous(**SMALL), ("network.bin", "network.xml")),
    "openvino loop": (
        {"solver_loop": "loop", "solver_steps": 2},
        lambda: continuous(**SMALL),
        ("network.bin", "network.xml"),
    ),
    "torch": ({}, lambda: continuous(**SMALL), ("network.pt2",)),
    "executorch": ({}, lambda: continuous(**SMALL), ("network.pte",)),
}


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c == "executorch" else c for c in FORMATS])
def test_other_formats(case, tmp_path):
    options, make, files = FORMATS[case]
    name = case.split()[0]
    if name != "torch":
        pytest.importorskip(name, reason=f"the {name} extra is not installed")
    info = export(make(), tmp_path / "x", format=name, **options)
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["export.json", *files, "runtime.py"]
    assert info["parity"]["max_error"] < (2e-2 if "fp16" in case else 1e-5)
    for file in files:
        content = (tmp_path / "x" / file).read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in content
        assert str(Path.home()).encode() + b"/" not in content
    if name == "openvino":
        images = runtime.generate(runtime.load(tmp_path / "x"), 1, steps=2, class_label=1 if case == name else None)
        assert images.shape == (1, 1, 8, 8)
    elif name == "executorch":
        assert info["delegation"]["delegated"]["convolution"] > 5
        assert info["delegation"]["subgraphs"] > 0
        assert "convolution" not in info["delegation"]["undelegated"]
    else:
        with pytest.raises(runtime.ExportedModelError, match="the format 'torch' does not run here"):
            runtime.load(tmp_path / "x")


REFUSED = {
    "precision": ({"format": "executorch", "precision": "fp16"}, "--precision fp16 is not for --format executorch"),
    "shape": ({"static_shape": "1x8"}, "expected BATCHxHEIGHTxWIDTH"),
    "both": ({"static_shape": "1x8x8", "any_size": True}, "contradict each other"),
    "steps": ({"solver_steps": 0}, "must be a number of at least 1, or any"),
    "any steps unrolled": ({"solver_steps": "any", "solver_loop": "unrolled"}, "needs a loop in the network"),
    "any steps": ({"solver_steps": "any", "format": "torch"}, "--solver-steps any is not for --format torch"),
    "tolerance": ({"tolerance": -1.0}, "--tolerance -1.0 must be above 0"),
    "no output": ({"output": ""}, "--output is missing"),
    "loop": ({"format": "torch", "solver_loop": "loop"}, "--solver-loop loop is not for"),
    "taken": ({"output": "taken"}, "is not empty and is not an earlier export"),
    "export there": ({"output": "export"}, "already holds a result (export)"),
    "file": ({"output": "file"}, "is a file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_is_refused(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    Path("taken/thesis.txt").write_text("mine")
    Path("export").mkdir()
    Path("export/export.json").write_text("{}")
    Path("file").write_text("")
    options, message = REFUSED[kind]
    if kind == "precision":  # comes before the question whether the package is there
        monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(InputError) as error:
        export_model(pipeline(continuous(**SMALL)), ExportOptions(**{"output": "x", "repeats": 0, **options}))
    assert message in str(error.value)
    assert not Path("x").exists()
    assert Path("taken/thesis.txt").read_text() == "mine"


MODELS = {
    "adaptive": (lambda: pipeline(continuous(method="dopri5", gradient="backprop")), "chooses its steps while it runs"),
    "class embedding": (lambda: pipeline(continuous(class_embed_type="identity")), "cannot be exported"),
    "no size": (lambda: pipeline(continuous(sample_size=None)), "give the size with --static-shape"),
    "thresholding": (lambda: DiffusionSamplingPipeline(continuous(), DDPMScheduler(thresholding=True)), "thresholding"),
    "no solver": (lambda: pipeline(discrete()), "is for continuous U-Nets of second order"),
    "condition": (lambda: pipeline(continuous(**SMALL, in_channels=2)), "takes 2 channels and gives 1"),
    "other process": (
        lambda: DiffusionSamplingPipeline(continuous(), EDMEulerScheduler()),
        "EDMEulerScheduler with prediction_type=epsilon is not supported",
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_that_cannot_be_exported_are_refused(kind, tmp_path):
    make, message = MODELS[kind]
    steps = "any" if kind == "no solver" else None
    with pytest.raises(InputError, match=message):
        export_model(make(), ExportOptions(output=str(tmp_path / "x"), repeats=0, solver_steps=steps))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(model), "--output", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert "pip install 'continuous-unet[export]'" in error
    assert len(error.splitlines()) == 1


def test_what_torch_cannot_trace_is_one_line(tmp_path, monkeypatch):
    unet = continuous()
    monkeypatch.setattr(type(unet.conv_act), "forward", lambda self, x: x if bool(x.sum() > 0) else -x)
    with pytest.raises(InputError, match="this model cannot be exported") as error:
        export(unet, tmp_path / "x")
    assert "\n" not in str(error.value)


def test_the_model_itself_is_left_as_it_was():
    unet = continuous(gradient="reversible").train()
    prepare_network(unet, ExportOptions(output="unused", solver_steps=1))
    assert unet.training
    assert unet.config.num_solver_steps == 2
    assert unet.config.gradient == "reversible"
    assert all(p.requires_grad for p in unet.parameters())


def test_json_is_valid_and_short_numbers_are_exact(info):
    alphas = np.array(info["schedule"]["alphas_cumprod"], np.float32)
    assert np.array_equal(alphas, pipeline(continuous()).scheduler.alphas_cumprod.numpy())
    json.dumps(info, allow_nan=False)


SIGNAL_AFTER_TWO_NETWORKS = """
import faulthandler, gc, os, signal, sys
from pathlib import Path
import numpy as np
import openvino
from openvino import opset13 as ops
from continuous_unet.deploy.standalone.runtime import open_openvino
faulthandler.enable()  # as pytest does: signals are handled on a stack of their own
handled = []
signal.signal(signal.SIGTERM, lambda number, frame: handled.append(number))
sample = ops.parameter([1, 4], np.float32, name="sample")
path = Path(sys.argv[1]) / "network.xml"
openvino.save_model(openvino.Model([ops.relu(sample)], [sample]), str(path))
first, second = (open_openvino(path, 1, ["sample"]) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
print(handled)
"""


def test_a_signal_is_handled_after_networks_of_openvino_are_gone(tmp_path):
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    command = [sys.executable, "-c", SIGNAL_AFTER_TWO_NETWORKS, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "[15]"), run.stderr
