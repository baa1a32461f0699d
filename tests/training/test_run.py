"""How the parts of a run are put together, and what is refused before anything is written."""

import json
import math
import tarfile

import pytest
import torch
from PIL import Image
from torch._dynamo.backends.registry import lookup_backend

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.options import FlowOptions
from continuous_unet.diffusion.process import process_of
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training import TrainConfig, train
from tests.training.runs import records


def test_a_stream_of_shards(tiny, tmp_path, capsys):
    pytest.importorskip("webdataset")
    (tmp_path / "shards").mkdir()
    for s in range(2):
        with tarfile.open(tmp_path / "shards" / f"{s}.tar", "w") as tar:
            for i in range(6):
                Image.new("L", (8, 8), 20 * i + s).save(tmp_path / "a.png")
                tar.add(tmp_path / "a.png", f"{i}.png")
    config = tiny(data=str(tmp_path / "shards"), num_validation=0, steps=4, num_workers=2)
    assert train(config).images_seen == 16
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["resume"].startswith("approximate")
    config.steps = 6
    assert train(config, resume=True).images_seen == 24
    assert "the resumption is approximate" in capsys.readouterr().err
    with pytest.raises(InputError, match="no images to hold out, no classes and no captions"):
        train(tiny(data=str(tmp_path / "shards"), output=str(tmp_path / "other")))
    with pytest.raises(InputError, match="2 shards, and 3 would read"):
        train(tiny(data=str(tmp_path / "shards"), output=str(tmp_path / "other"), num_validation=0, num_workers=3))


def test_strategies_that_split_the_weights_are_refused(tiny, tmp_path, monkeypatch):
    for name in ("FSDP", "DEEPSPEED"):
        with monkeypatch.context() as patch:
            patch.setenv(f"ACCELERATE_USE_{name}", "true")
            with pytest.raises(InputError, match=f"configured for {name}, which splits the weights"):
                train(tiny())
    assert not (tmp_path / "run").exists()


def test_what_is_refused_leaves_no_trace(tiny, tmp_path):
    for changes, message in (
        ({"data": str(tmp_path / "nope")}, "does not exist"),
        ({"model_options": {"block_out_channels": [7]}}, "norm_num_groups=8 does not divide"),
        ({"model_options": {"nonsense": 1}}, "nonsense"),
        ({"num_validation": 5000}, "5000 validation images"),
        ({"image_size": 9}, "multiples of 2"),
        ({"image_size": 2, "model_options": {"block_out_channels": [8, 8]}}, "does not work on images of 2x2 pixels"),
        ({"mixed_precision": "fp16"}, "needs a GPU"),
        ({"device": "mps" if torch.cuda.is_available() else "cuda"}, "not available here"),
    ):
        with pytest.raises(InputError, match=message):
            train(tiny(**changes))
        assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_there_is_asked_for(tiny, tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"continuous-unet\[wandb\]"):
        train(tiny(logger="wandb"))
    assert not (tmp_path / "run").exists()


def test_flow_matching_is_a_process_like_the_other(tiny, tmp_path):
    """Trained, validated, resumed bit for bit, pictured, saved with diffusers' scheduler, and trained further."""
    config = tiny(process="flow", logit_mean=-0.5, image_size="16x80", lr_schedule="constant")
    train(config)
    part = config.replaced(steps=3, output=str(tmp_path / "part"))
    train(part)
    assert TrainConfig.load(tmp_path / "part" / "config.yaml").process == FlowOptions(-0.5)
    train(part.replaced(steps=6), resume=True)
    weights = [load_pipeline(tmp_path / run).unet.state_dict() for run in ("run", "part")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [r["step"] for r in records(tmp_path / "run") if "validation_loss_quarter_1" in r] == [3, 6]
    assert (tmp_path / "run" / "samples" / "step-00000006.png").is_file()
    scheduler = load_pipeline(tmp_path / "run").scheduler
    assert type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    assert process_of(scheduler).shift == math.sqrt(16 * 80) / 32
    more = config.replaced(model_options={}, start_from=str(tmp_path / "run"), steps=1, output=str(tmp_path / "more"))
    train(more)


@pytest.mark.parametrize("preset", ["tiny", "ddpm_small"])
def test_images_that_are_not_square(preset, tiny, tmp_path):
    """Trained, sampled, saved, and refused where the model cannot halve them."""
    model = {
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
        **({"layers_per_block": 1} if preset[0] == "d" else {}),
    }
    config = tiny(image_size="8x12", preset=preset, model_options=model, steps=3, sample_every=3)
    train(config)
    assert Image.open(tmp_path / "run" / "samples" / "step-00000003.png").size == (2 * 48 + 6, 32 + 4)
    unet = load_pipeline(tmp_path / "run").unet
    assert tuple(unet.config.sample_size) == (8, 12)
    assert "images of 12x8 pixels" in (tmp_path / "run" / "report.md").read_text()
    train(config.replaced(steps=4), resume=True)
    with pytest.raises(InputError, match="image_size '8x12' -> '12x8'"):
        train(config.replaced(steps=5, image_size="12x8"), resume=True)
    more = TrainConfig.from_dict({**config.flat(), "model_options": {}, "start_from": str(tmp_path / "run")})
    train(more.replaced(steps=1, output=str(tmp_path / "more")))
    with pytest.raises(InputError, match=r"the size of the images \(\(8, 12\), and here \(12, 8\)\)"):
        train(more.replaced(image_size="12x8", output=str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process": "flow"}, r"the noise process \(variance-preserving, and here flow\)"),
        ({"objective": "v_prediction"}, r"the objective \(epsilon, and here v_prediction\)"),
        ({"noise_schedule": "squaredcos_cap_v2"}, r"the noise schedule; make"),
        ({"num_train_timesteps": 500}, r"the noise schedule; make"),
        (
            {"class_conditional": True},
            r"the number of classes, and one more with --condition-dropout \(None, and here 4\)",
        ),
        ({"channels": 1}, r"the number of input channels \(3, and here 1\)"),
        ({"task": "upscale"}, r"the number of input channels \(3, and here 6\)"),
    ],
)
def test_a_model_to_start_from_must_fit(changes, message, tiny, tmp_path):
    train(tiny(steps=1, num_validation=0))
    config = tiny(model_options={}, start_from=str(tmp_path / "run"), output=str(tmp_path / "other"), **changes)
    with pytest.raises(InputError, match=message):
        train(config)
    assert not (tmp_path / "other").exists()


def test_compiled_blocks_learn_the_same(tiny, tmp_path, monkeypatch):
    """Validations and pictures have other sizes of batches, for which nothing is compiled."""
    torch.compiler.reset()
    real, compiled, graphs = torch.compile, [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return lookup_backend("aot_eager")(graph, inputs)

    def compile_quickly(code, **options):
        compiled.append(type(code.__self__).__name__)
        return real(code, **{**options, "backend": backend})

    eager = train(tiny(output=str(tmp_path / "eager")))
    monkeypatch.setattr(torch, "compile", compile_quickly)
    result = train(tiny(compile=True))
    assert set(compiled) == {"DynamicBlock"}
    assert len(graphs) < len(compiled)
    assert result.loss == pytest.approx(eager.loss, rel=1e-4)
    assert result.validation_loss == pytest.approx(eager.validation_loss, rel=1e-4)
    assert load_pipeline(tmp_path / "run").unet.config.block_type == "second_order"


def test_what_is_compiled_as_a_whole(tiny, monkeypatch):
    """A model that lists no repeated blocks, and one that is asked to be."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiled.append(type(model).__name__) or model)
    options = {"block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4}
    train(tiny(preset="ddpm_small", model_options=options, compile=True, steps=1))
    train(tiny(compile=True, compile_scope="model", steps=1, output=tiny().output + "-whole"))
    assert compiled == ["UNet2DModel", "ContinuousUNet2DModel"]
