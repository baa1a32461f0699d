"""Pruned models compute what is left of the old ones, are saved and used like any, and only where that can be."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.deploy.calibration import Origin, noised_images, open_for
from continuous_unet.deploy.pruning import channels as pruning
from continuous_unet.deploy.pruning.channels import (
    Widths,
    accumulate_gradients,
    channels_to_drop,
    current_widths,
    prunable,
    prune_unet,
    pruned_widths,
)
from continuous_unet.deploy.pruning.options import PruneOptions
from continuous_unet.deploy.pruning.run import prune
from continuous_unet.diffusion.process import process_of
from continuous_unet.tasks.loading import load_pipeline
from tests.deploy.conftest import continuous, discrete, pipeline, spoil_zeros

pytest.importorskip("torch_pruning", reason="the prune extra is not installed")

SEPARABLE = {"field_type": "separable", "field_channels": (16, 24)}
GENERAL = {"field_type": "general", "method": "reversible_leapfrog", "gradient": "reversible"}
KINDS = {
    "relaxation": {},
    "general": GENERAL,
    "separable": SEPARABLE,
    "residual": {"block_type": "residual", "gradient": "backprop"},
    "two blocks": {"layers_per_block": 2},
    "timestep, patches": {"initial_velocity": "timestep", "patch_size": 2},
    "no middle": {"mid_block_type": None},
}


def twin(wide: torch.Tensor, narrow: torch.Tensor) -> torch.Tensor:
    """A parameter of the narrow model for one with every channel twice: the second copy is made, and read by nobody."""
    for dim in range(narrow.ndim):
        if wide.shape[dim] != narrow.shape[dim]:
            narrow = narrow.repeat_interleave(2, dim)
            if dim == 1:  # what a layer reads
                narrow = narrow * torch.tensor([1.0, 0.0]).repeat(narrow.shape[1] // 2).view(
                    1, -1, *[1] * (narrow.ndim - 2)
                )
    return narrow


@pytest.mark.parametrize("kind", KINDS)
def test_channels_that_nobody_reads_can_go_without_a_trace(kind, monkeypatch):
    """Doubled channels give a norm the statistics of single ones: pruning the copies must give the old values exactly.

    A channel taken from x and not from v, or from another place of a concatenation, would change them.
    """
    options = {"add_attention": False, "time_embedding_dim": 16, "time_proj_channels": 8, **KINDS[kind]}
    narrow = continuous(**options)
    double = {"block_out_channels": (16, 32)}
    if "field_channels" in options:
        double["field_channels"] = tuple(2 * width for width in options["field_channels"])
    wide = continuous(**{**options, **double})
    own = narrow.state_dict()
    wide.load_state_dict({name: twin(tensor, own[name]) for name, tensor in wide.state_dict().items()})
    size = 8 * options.get("patch_size", 1)
    inputs = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 700])
    monkeypatch.setattr(pruning, "channels_to_drop", lambda scores, *_: list(range(1, len(scores), 2)))  # the copies
    with torch.no_grad():
        expected = narrow(*inputs).sample
        torch.testing.assert_close(wide(*inputs).sample, expected, atol=2e-5, rtol=1e-4)
        pruned = prune_unet(wide, current_widths(narrow), "magnitude")
        torch.testing.assert_close(pruned(*inputs).sample, expected, atol=2e-5, rtol=1e-4)
    assert pruned.num_parameters() == narrow.num_parameters()


def test_heads_of_attention_stay_or_go_whole():
    unet = continuous(attention_head_dim=4)
    attention = unet.mid_block.attentions[0]
    with torch.no_grad():
        attention.to_q.weight[4:8] *= 0.01  # of four heads of four channels, the second and the last matter least
        attention.to_q.weight[12:] *= 0.01
        for layer in (attention.to_k, attention.to_v):
            layer.weight[4:8] *= 0.01
            layer.weight[12:] *= 0.01
        attention.to_out[0].weight[:, 4:8] *= 0.01
        attention.to_out[0].weight[:, 12:] *= 0.01
    pruned = prune_unet(unet, Widths((8, 8), (8, 8)), "magnitude").mid_block.attentions[0]
    assert pruned.heads == 2
    left = [0, 1, 2, 3, 8, 9, 10, 11]
    torch.testing.assert_close(pruned.to_q.bias, attention.to_q.bias[left])


def test_as_many_channels_stay_in_every_run_of_a_norm():
    scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0])
    assert channels_to_drop(scores, 4, groups=2) == [2, 3, 4, 5]
    assert channels_to_drop(scores, 4, groups=1) == [4, 5, 6, 7]
    assert channels_to_drop(torch.tensor([1.0, 9.0, 2.0, 2.0, 5.0, 5.0]), 4, groups=1, whole=2) == [2, 3]


def test_widths_are_what_norms_and_heads_can_have():
    unet = continuous(block_out_channels=(24, 48), norm_num_groups=8, attention_head_dim=12)
    assert pruned_widths(unet, 0.3) == Widths((16, 24), (16, 32))  # heads of 12 and norms of 8: multiples of 24
    with pytest.raises(InputError, match="removes nothing"):
        pruned_widths(unet, 0.05)


def test_timesteps_that_say_nothing_are_left_out():
    """Gradients are the sum over the timesteps whose loss is not far below the largest."""
    unet = continuous()
    process = process_of(DDPMScheduler())
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(8, 1, 8, 8, generator=generator) for _ in range(2))
    batch = {"clean": clean, "noise": noise, "timestep": torch.tensor([900, 10, 900, 10, 900, 10, 900, 10])}
    noise[batch["timestep"] == 900] *= 0.01  # hardly a loss there
    unet.conv_out.weight.data *= 1e-4
    unet.conv_out.bias.data *= 0
    assert accumulate_gradients(unet, process, batch, batch_size=4) == [10, 10]
    some = unet.conv_out.bias.grad.clone()
    assert accumulate_gradients(unet, process, batch, batch_size=4, share=0.0) == [10, 10, 900, 900]
    assert not torch.equal(some, unet.conv_out.bias.grad)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    pipeline(continuous(block_out_channels=(8, 16), attention_head_dim=4)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pruned(trained) -> dict:
    pytest.importorskip("sklearn", reason="the digits extra is not installed")
    folder = trained.parent / "pruned"
    code = main([
        "prune", str(trained), "--data", "digits", "--ratio", "0.5", "--output", str(folder), "--steps", "2",
        "--batch-size", "4", "--importance-images", "32", "--num-validation", "32", "--learning-rate", "1e-2",
    ])  # fmt: skip
    assert code == 0
    return {"folder": folder, "report": json.loads((folder / "prune.json").read_text())}


def test_report_tells_before_and_after(pruned, trained):
    report = pruned["report"]
    before, cut, after = (report[name] for name in ("original", "pruned", "finetuned"))
    assert before["parameters"] == load_pipeline(trained).unet.num_parameters()
    assert cut["parameters"] == after["parameters"] == load_pipeline(pruned["folder"]).unet.num_parameters()
    assert cut["parameters"] < 0.6 * before["parameters"]
    assert cut["macs"] < 0.4 * before["macs"]
    assert cut["block_out_channels"] == [4, 8]
    assert len({row["validation_loss"] for row in (before, cut, after)}) == 3


def test_a_pruned_model_goes_through_the_other_verbs(pruned, tmp_path, capsys):
    folder = str(pruned["folder"])
    assert main(["sample", folder, "--num", "1", "--steps", "1", "--output", str(tmp_path / "a.png")]) == 0
    assert main(["profile", folder, "--repeats", "1", "--json"]) == 0
    train = ["train", "--start-from", folder, "--data", "digits", "--output", str(tmp_path / "run"), "--steps", "1"]
    schedule = ["--objective", "v_prediction", "--noise-schedule", "squaredcos_cap_v2", "--image-size", "8"]
    small = ["--batch-size", "2", "--num-samples", "1", "--sample-steps", "1"]
    assert main([*train, *schedule, *small]) == 0
    assert load_pipeline(tmp_path / "run").unet.config.field_channels == [4, 8]
    assert (
        main([*train, *small, "--image-size", "8", "--noise-schedule", "squaredcos_cap_v2"]) == 2
    )  # another diffusion process
    assert "objective (v_prediction, and here epsilon)" in capsys.readouterr().err


def test_every_whole_number_is_a_seed(trained, tmp_path):
    pytest.importorskip("sklearn", reason="the digits extra is not installed")
    options = ["--data", "digits", "--ratio", "0.5", "--importance", "random", "--steps", "0", "--num-validation", "8"]
    arguments = ["prune", str(trained), *options, "--output", str(tmp_path / "out"), "--seed", "9" * 23]
    assert main(arguments) == 0


def test_models_whose_images_are_not_square_are_refused(tmp_path, capsys):
    pytest.importorskip("sklearn", reason="the digits extra is not installed")
    pipeline(continuous(sample_size=(8, 16))).save_pretrained(tmp_path / "model")
    options = ["--data", "digits", "--ratio", "0.5", "--output", str(tmp_path / "out")]
    assert main(["prune", str(tmp_path / "model"), *options]) == 2
    assert "needs a model whose configuration has a square sample_size" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_stopped_finetuning_goes_on(trained, tmp_path, monkeypatch):
    from continuous_unet.training.trainer import Trainer

    pytest.importorskip("sklearn", reason="the digits extra is not installed")
    options = PruneOptions(
        model=str(trained), data="digits", output=str(tmp_path / "out"),
        ratio=0.5, steps=3, batch_size=4, importance_images=32,
        num_validation=32,
    )  # fmt: skip
    take_step = Trainer.take_step

    def stopped(self, batches):
        os.kill(os.getpid(), signal.SIGTERM)
        return take_step(self, batches)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "take_step", stopped)
        assert prune(options).stopped_by == signal.SIGTERM
    start = [
        load_pipeline(tmp_path / "out").unet.state_dict(),
        load_pipeline(tmp_path / "out" / "pruned").unet.state_dict(),
    ]
    assert all(torch.equal(a, b) for a, b in zip(start[0].values(), start[1].values(), strict=True))
    (tmp_path / "out").rename(tmp_path / "moved")
    options.output = str(tmp_path / "moved")
    options.model = "not read again"
    result = prune(options, resume=True)
    assert result.stopped_by is None
    assert result.report["finetuned"]["steps"] == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "shapes"}, "3 channels and the model takes 1"),
        ({"ratio": 0.01}, "removes nothing"),
        ({"ratio": 1.5}, "must be above 0 and below 1"),
        ({"output": "taken"}, "not empty"),
    ],
)
def test_refused_in_one_line(trained, tmp_path, monkeypatch, capsys, change, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    options = {"data": "digits", "output": "out", "ratio": 0.5, **change}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert main(["prune", str(trained), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_gradient_fields_are_refused():
    with pytest.raises(InputError, match="their kernels serve twice"):
        prunable(continuous(field_type="gradient"))


def test_a_discrete_unet_is_refused(tmp_path):
    pipeline(discrete()).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="ties the timestep's features to the first width"):
        prune(PruneOptions(model=str(tmp_path / "model"), data="digits", output=str(tmp_path / "out")))


def test_noised_images_cover_all_timesteps():
    unet = spoil_zeros(ContinuousUNet2DModel(sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8,)))
    data = open_for(unet, "shapes", Origin())
    batch = noised_images(data, process_of(DDPMScheduler()), 100, with_labels=False)
    quarters = torch.bincount(batch["timestep"] * 4 // 1000, minlength=4)
    assert quarters.min() >= 24
    torch.testing.assert_close(
        batch["sample"], DDPMScheduler().add_noise(batch["clean"], batch["noise"], batch["timestep"])
    )
