"""What is ours alone: the solver's settings, presets, both clocks, pipelines in a fresh process, compilation."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline
from diffusers.utils import hub_utils
from torch._dynamo.testing import CompileCounter

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.deploy.standalone.runtime import openvino_core
from continuous_unet.models import presets
from continuous_unet.models.blocks import DynamicBlock, SolverConfig, count_evaluations
from continuous_unet.models.build import build_unet
from continuous_unet.models.conditioning import AdaptiveScaleShift, Conditioning
from continuous_unet.models.fields import FIELDS, FieldConfig

SMALL = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}


def make(**changes):
    model = ContinuousUNet2DModel(**{**SMALL, **changes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def gradients(model, x, timestep):
    model.zero_grad()
    model(x, timestep).sample.square().mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("field_type", "method", "gradient"),
    [
        ("relaxation", "kick_drift", "reversible"),
        ("relaxation", "drift_kick_drift", "reversible"),
        ("relaxation", "reversible_leapfrog", "reversible"),
        ("relaxation", "kick_drift", "checkpoint"),
        ("gradient", "kick_drift", "reversible"),
        ("general", "reversible_leapfrog", "reversible"),
        ("general", "heun", "checkpoint"),
        ("general", "rk4", "checkpoint"),
        ("general", "semi_implicit_euler", "checkpoint"),
    ],
)
def test_gradient_modes_agree_in_the_whole_model(field_type, method, gradient):
    """Embeddings are made outside the blocks: their gradients must come through every mode."""
    model = make(field_type=field_type, method=method, gradient=gradient)
    x, timestep = torch.randn(2, 1, 8, 8), torch.tensor([10, 900])
    ours = gradients(model, x, timestep)
    reference = gradients(model.set_solver(gradient="backprop"), x, timestep)
    assert float((ours - reference).norm() / reference.norm()) < 1e-5


def test_paper_preset_trains_with_the_continuous_adjoint():
    pytest.importorskip("torchdiffeq")
    model = make(**{**presets.paper(), **SMALL})
    x, timestep = torch.randn(2, 1, 8, 8), torch.tensor([10, 900])
    adjoint = gradients(model, x, timestep)
    exact = gradients(model.set_solver(gradient="backprop"), x, timestep)
    # the continuous adjoint is inexact by design; it must still point the same way
    assert float(torch.cosine_similarity(adjoint, exact, dim=0)) > 0.9


def test_a_new_model_predicts_zero_and_its_blocks_are_the_identity():
    model = ContinuousUNet2DModel(**SMALL)
    assert torch.equal(model(torch.randn(1, 1, 8, 8), 1).sample, torch.zeros(1, 1, 8, 8))
    block = model.down_blocks[0].blocks[0]
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(block(x, Conditioning(torch.randn(1, 32))), x)


@pytest.mark.parametrize("field_type", FIELDS)
def test_dynamics_know_both_clocks(field_type):
    config = FieldConfig(channels=8, emb_channels=16, horizon=2.0, norm_num_groups=4)
    field = FIELDS[field_type](config)
    for parameter in field.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, v, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4), Conditioning(torch.randn(2, 16))
    reference = field(0.5, x, v, emb)
    assert not torch.allclose(field(1.0, x, v, emb), reference)
    assert not torch.allclose(field(0.5, x, v, Conditioning(emb.embedding + 1)), reference)
    assert not torch.allclose(field(0.5, x, v + 1, emb), reference)
    torch.testing.assert_close(field(torch.tensor(0.5), x, v, emb), reference)


def test_scale_shift_is_what_it_says():
    module = AdaptiveScaleShift(16, 8, horizon=2.0)
    emb, h = torch.randn(2, 16), torch.randn(2, 8, 4, 4)
    clocks = torch.nn.functional.silu(emb + module.time(module.features(0.7, emb)))
    scale, shift = module.out(clocks).chunk(2, dim=1)
    torch.testing.assert_close(
        module(0.7, Conditioning(emb), h), h * (1 + scale[..., None, None]) + shift[..., None, None]
    )


def test_set_solver_is_a_dial_that_converges_and_is_saved(tmp_path):
    model = make(method="drift_kick_drift").eval()
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        fine = model.set_solver(num_steps=64)(x, 5).sample
        errors = [float((model.set_solver(num_steps=n)(x, 5).sample - fine).norm()) for n in (2, 4, 8)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    model.set_solver(num_steps=3)
    assert {s["num_steps"] for s in model.solver_stats().values()} == {3}
    model.save_pretrained(tmp_path)
    loaded = ContinuousUNet2DModel.from_pretrained(tmp_path).eval()
    assert loaded.config.integration_time == 2.0  # the horizon it was made with, not the new number of steps
    with torch.no_grad():
        torch.testing.assert_close(loaded(x, 5).sample, model(x, 5).sample, atol=1e-6, rtol=1e-6)


def test_set_solver_refuses_and_changes_nothing():
    model = make()
    before = model.solver_stats()
    with pytest.raises(ValueError, match="num_steps=0"):
        model.set_solver(num_steps=0)
    with pytest.raises(ValueError, match="needs a reversible method"):
        model.set_solver(method="rk4")
    assert model.solver_stats() == before
    assert model.config.num_solver_steps == 2
    with pytest.raises(ValueError, match="needs field_type='relaxation'"):
        make(field_type="general", method="reversible_leapfrog").set_solver(method="kick_drift")


def test_evaluations_are_counted_per_block():
    model = make(method="rk4", gradient="backprop", num_solver_steps=3)
    with count_evaluations(model) as counts:
        model(torch.randn(1, 1, 8, 8), 1)
    assert set(counts.values()) == {12}
    stats = model.solver_stats()
    assert list(stats) == [
        "down_blocks.0.blocks.0",
        "down_blocks.1.blocks.0",
        "mid_block.blocks.0",
        "up_blocks.0.blocks.0",
        "up_blocks.1.blocks.0",
    ]
    assert {s["nfe"] for s in stats.values()} == {12}
    adaptive = make(method="dopri5", gradient="backprop", field_type="general")
    assert {s["nfe"] for s in adaptive.solver_stats().values()} == {None}  # found out while it runs
    with count_evaluations(adaptive) as counts:
        adaptive(torch.randn(1, 1, 8, 8), 1)
    assert counts.keys() == stats.keys()
    assert min(counts.values()) > 6


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_build_and_take_overrides(name):
    model = build_unet(name, sample_size=16, in_channels=2, out_channels=2)
    assert type(model).__name__ == presets.PRESETS[name]().get("_class_name", "ContinuousUNet2DModel")
    shape = {"clips": (1, 2, 2, 16, 16), "planner": (1, 2, 16)}.get(name, (1, 2, 16, 16))
    with torch.no_grad():
        assert model(torch.randn(shape), 3).sample.shape == shape


def test_presets_of_discrete_unets_follow_their_number_of_levels():
    model = build_unet("ddpm", sample_size=16, block_out_channels=[8, 16], layers_per_block=1)
    assert model.config.down_block_types == ("DownBlock2D", "DownBlock2D")
    assert model.config.norm_num_groups == 8
    assert "AttnDownBlock2D" in presets.ddpm()["down_block_types"]


def test_patch_stem_is_invertible_layout():
    model = make(patch_size=2, block_out_channels=(8,), sample_size=8)
    x = torch.randn(1, 1, 8, 8)
    assert model.conv_in.in_channels == 4
    assert model(x, 1).sample.shape == x.shape


def test_autocast_keeps_the_state_in_float32():
    model = make(gradient="reversible")
    seen = []
    block = next(m for m in model.modules() if isinstance(m, DynamicBlock))
    block.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    x, timestep = torch.randn(2, 1, 8, 8), torch.tensor([10, 900])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reversible = gradients(model, x, timestep)
        backprop = gradients(model.set_solver(gradient="backprop"), x, timestep)
    assert set(seen) == {torch.float32}
    assert float((reversible - backprop).norm() / backprop.norm()) < 2e-2


@pytest.mark.parametrize("gradient", ["reversible", "checkpoint", "backprop"])
def test_compiles_without_graph_breaks_or_recompilation(gradient):
    model = make(gradient=gradient)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x, timestep = torch.randn(2, 1, 8, 8), torch.tensor([10, 900])
    reference = gradients(model, x, timestep)
    ours = gradients(compiled, x, timestep)
    assert float((ours - reference).norm() / reference.norm()) < 1e-5
    with torch.compiler.set_stance("fail_on_recompile"):
        gradients(compiled, torch.randn(2, 1, 8, 8), torch.tensor([11, 901]))


def test_models_of_different_horizons_compile_in_one_process():
    """Dynamo makes a symbol of a float that it has seen with another value: the time of the ODE, here."""
    torch.compiler.reset()  # what it has seen in other tests would hide which of the two it stumbles on
    x, timestep = torch.randn(2, 1, 8, 8), torch.tensor([10, 900])
    for integration_time in (1.0, 2.0):
        model = make(gradient="backprop", integration_time=integration_time)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        reference = gradients(model, x, timestep)
        assert float((gradients(compiled, x, timestep) - reference).norm() / reference.norm()) < 1e-5


@pytest.mark.parametrize("gradient", ["reversible", "backprop"])
def test_repeated_blocks_compile_once_for_each_width(gradient):
    """19 blocks of two widths: a graph for each block would exceed dynamo's limit."""
    torch.compiler.reset()
    model = make(gradient=gradient, layers_per_block=3, block_out_channels=(8, 8, 16))
    x, timestep = torch.randn(2, 1, 8, 8), torch.tensor([10, 900])
    reference = gradients(model, x, timestep)
    counter = CompileCounter()
    model.compile_repeated_blocks(fullgraph=True, backend=counter)
    ours = gradients(model, x, timestep)
    assert float((ours - reference).norm() / reference.norm()) < 1e-5
    assert len(model.solver_stats()) == 19
    assert 2 <= counter.frame_count <= 3


@pytest.mark.parametrize("kind", [{}, {"gradient": "checkpoint"}, {"gradient": "checkpoint", "block_type": "residual"}])
def test_openvino_converts_by_example(kind):
    openvino = pytest.importorskip("openvino")
    model, x, timestep = make(**kind).eval(), torch.randn(2, 1, 8, 8), torch.tensor([10, 900])
    converted = openvino.convert_model(model, example_input={"sample": x, "timestep": timestep})
    network = openvino_core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        for sample in (x, -x):
            ours = torch.tensor(network([sample.numpy(), timestep.numpy()])[0])
            torch.testing.assert_close(ours, model(sample, timestep).sample, atol=1e-5, rtol=1e-4)


def test_transforms_of_torch_func_say_what_to_do():
    model, x = make(), torch.randn(2, 1, 8, 8)
    parameters = dict(model.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(model, parameters, (x, 5)).sample.square().mean()

    with pytest.raises(RuntimeError, match="use gradient='backprop'"):
        torch.func.grad(loss)(parameters)
    model.set_solver(gradient="backprop")
    expected = torch.autograd.grad(loss(parameters), list(parameters.values()))
    for ours, theirs in zip(torch.func.grad(loss)(parameters).values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


FRESH = """
import sys
from pathlib import Path
import continuous_unet
assert "torch" not in sys.modules
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
print(type(pipeline).__name__, type(pipeline.unet).__name__)
pipeline.set_progress_bar_config(disable=True)
image = pipeline(batch_size=1, num_inference_steps=2).images[0]
print(image.size)
"""


def test_pipeline_loads_in_a_fresh_process(tmp_path):
    DDPMPipeline(unet=make(), scheduler=DDPMScheduler()).save_pretrained(tmp_path)
    assert '"continuous_unet"' in (tmp_path / "model_index.json").read_text()
    run = subprocess.run([sys.executable, "-c", FRESH, tmp_path], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["DDPMPipeline ContinuousUNet2DModel", "(8, 8)"]
    assert type(DiffusionPipeline.from_pretrained(tmp_path).unet) is ContinuousUNet2DModel


def test_push_to_hub_uploads_what_save_pretrained_writes(monkeypatch):
    """No hub is reachable here: the upload itself is replaced, everything before it is real."""
    uploaded = {}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def upload_folder(*, folder_path, repo_id, **kwargs):
        uploaded[repo_id] = sorted(p.name for p in Path(folder_path).iterdir())

    monkeypatch.setattr(hub_utils, "create_repo", lambda *a, **k: type("Url", (), {"repo_id": a[0]})())
    monkeypatch.setattr(hub_utils, "upload_folder", upload_folder)
    make().push_to_hub("someone/continuous-unet-test")
    ((repo_id, files),) = uploaded.items()
    assert repo_id == "someone/continuous-unet-test"
    assert {"config.json", "diffusion_pytorch_model.safetensors"} <= set(files)


BAD = [
    ({"sample_size": 7}, "multiples of 2"),
    ({"block_out_channels": (8, 13)}, "norm_num_groups=4 does not divide the width 13"),
    ({"block_out_channels": ()}, "at least one width"),
    ({"down_block_types": ("DownBlock2D",)}, "one per level"),
    ({"down_block_types": ("DownBlock2D", "Foo")}, "'Foo'"),
    ({"mid_block_type": "Foo"}, "mid_block_type"),
    ({"class_embed_type": "Foo"}, "class_embed_type"),
    ({"field_type": "magic"}, "expected one of general, relaxation"),
    ({"method": "magic"}, "expected one of reversible_leapfrog"),
    ({"gradient": "magic"}, "expected one of backprop"),
    ({"method": "rk4", "gradient": "reversible"}, "gradient='checkpoint'"),
    ({"method": "kick_drift", "field_type": "general"}, "needs field_type='relaxation'"),
    ({"num_solver_steps": 0}, "num_steps=0"),
    ({"integration_time": -1.0}, "must be positive"),
    ({"dropout": 1.5}, "dropout=1.5"),
    ({"in_channels": 0}, "in_channels=0"),
    ({"attention_head_dim": 3}, "attention_head_dim=3"),
    ({"cross_attention_dim": 0}, "cross_attention_dim=0"),
    ({"add_attention": False, "attention_head_dim": 3, "cross_attention_dim": 6}, "attention_head_dim=3"),
    ({"block_type": "magic"}, "expected one of second_order, first_order, residual"),
    ({"block_type": "residual", "gradient": "reversible"}, "use 'backprop' or 'checkpoint'"),
    ({"block_type": "first_order", "method": "rk4", "gradient": "checkpoint"}, "use 'backprop' or 'adjoint'"),
    ({"block_type": "first_order", "method": "kick_drift", "gradient": "backprop"}, "for example 'rk4'"),
    ({"initial_velocity": "magic"}, "expected one of features, timestep"),
    ({"norm_type": "magic"}, "expected one of group, pixel, none"),
    ({"field_channels": (8, 6)}, "norm_num_groups=4 does not divide the width 6 of field_channels"),
]


def test_casting_says_nothing():
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("diffusers.models.modeling_utils")
    logger.addHandler(handler)
    try:
        assert make().to(torch.bfloat16).half().to(dtype=torch.float64).dtype == torch.float64
        assert said == []
        logger.warning("something else")
        assert said == ["something else"]
    finally:
        logger.removeHandler(handler)


def test_heads_need_not_divide_widths_without_attention():
    make(add_attention=False, attention_head_dim=3)


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(changes) for changes, _ in BAD])
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ContinuousUNet2DModel(**{**SMALL, **changes})


def test_bad_inputs_are_named():
    model = make()
    with pytest.raises(ValueError, match="nearest: 8 or 10 by 8"):
        model(torch.randn(1, 1, 9, 8), 1)
    with pytest.raises(ValueError, match=r"expected \(B, 1, H, W\)"):
        model(torch.randn(1, 3, 8, 8), 1)
    with pytest.raises(ValueError, match=r"timestep has shape \(2,\)"):
        model(torch.randn(1, 1, 8, 8), torch.tensor([1, 2]))


def test_solver_config_copies_are_checked():
    solver = SolverConfig(2, 2.0, "kick_drift", "reversible")
    assert solver.with_changes(num_steps=4, method=None).num_steps == 4
    with pytest.raises(ValueError, match="unknown"):
        solver.with_changes(method="magic")
