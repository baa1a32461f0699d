"""Elastic depth: what is trained at which number of solver steps, and the models that come out."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from continuous_unet.base.errors import InputError
from continuous_unet.base.processes import Processes
from continuous_unet.tasks.base import StepContext
from continuous_unet.tasks.depths import Shallow, draw_shallow, mean_over_depths
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training import train, validation
from continuous_unet.training.depths import choose_depths, losses_by_depth
from continuous_unet.training.run import make_task, open_data


def test_the_loss_of_both_depths(tiny):
    """By its definition, with a model that predicts its depth: images 1, 3 and 5 of six are trained at two depths."""
    task = make_task(tiny(task="generate", objective="sample", min_snr_gamma=5.0, class_conditional=True))
    calls = []

    def model(x, times, class_labels, num_solver_steps=None):
        calls.append((times, class_labels))
        return SimpleNamespace(sample=torch.full_like(x, 0.5 if num_solver_steps is None else num_solver_steps))

    clean, times = torch.arange(6.0)[:, None, None, None].expand(6, 1, 2, 2), torch.arange(6) * 100
    conditions = {"class_labels": torch.arange(6)}
    step = StepContext(model, task.process, clean, torch.zeros_like(clean), times, conditions, positions=range(6))
    weights = task.process.add_noise(clean, clean, times).weight
    plain = weights * (0.5 - torch.arange(6.0)) ** 2
    torch.testing.assert_close(task.loss(step), plain)
    calls.clear()

    losses = task.loss(replace(step, shallow=Shallow(2, data_share=0.75, first=1)))
    further = torch.zeros(6)
    for k in (1, 3, 5):
        further[k] = 2 * weights[k] * (0.75 * (2 - k) ** 2 + 0.25 * (2 - 0.5) ** 2)
    torch.testing.assert_close(losses, (plain + further) / 1.75)
    assert [call[0].tolist() for call in calls] == [times.tolist(), [100, 300, 500]]
    assert [call[1].tolist() for call in calls] == [[0, 1, 2, 3, 4, 5], [1, 3, 5]]


def test_the_deepest_is_not_taught_by_the_others(tiny):
    task = make_task(tiny(task="denoise", loss="squared"))
    deep, shallow = (torch.tensor(value, requires_grad=True) for value in (0.0, 2.0))

    def model(x, times, num_solver_steps=None):
        return SimpleNamespace(sample=x * 0 + (deep if num_solver_steps is None else shallow))

    model.dtype = torch.float32
    clean, times = torch.zeros(4, 1, 2, 2), torch.zeros(4).long()
    step = StepContext(model, task.process, clean, torch.ones_like(clean), times, positions=range(4))
    (alone,) = torch.autograd.grad(task.loss(step).mean(), deep)
    task.loss(replace(step, shallow=Shallow(1, data_share=0.0))).mean().backward()
    torch.testing.assert_close(deep.grad, alone)
    torch.testing.assert_close(shallow.grad, torch.tensor(4.0))  # of the squared distance to the deepest


def test_a_loss_with_a_teacher_of_its_own_is_the_mean_of_both_depths():
    def loss(step):
        depth = getattr(step.model, "num_solver_steps", 0)
        return torch.tensor([100.0 * depth + k for k in step.positions]) + step.clean[:, 0] * 0

    step = StepContext(None, None, torch.zeros(6, 1), torch.zeros(6, 1), torch.zeros(6), positions=range(10, 16))
    assert mean_over_depths(step, loss).tolist() == [10, 11, 12, 13, 14, 15]
    losses = mean_over_depths(replace(step, shallow=Shallow(2, 0.5, first=1)), loss)
    assert (2 * losses).tolist() == [10, 11 + 2 * 211, 12, 13 + 2 * 213, 14, 15 + 2 * 215]


def test_draws_of_depths():
    """They depend on seed and step alone, take each shallow depth alike, and the teacher's share grows."""

    def draw(step, start=0, seed=0, depths=(1, 2, 4), steps=600):
        return draw_shallow(depths, seed=seed, step=step, progress=step / steps, positions=range(start, start + 8))

    found = [draw(step) for step in range(600)]
    numbers = [shallow.num_solver_steps for shallow in found]
    assert set(numbers) == {1, 2}
    assert 250 < numbers.count(1) < 350
    assert numbers != [draw(step, seed=1).num_solver_steps for step in range(600)]
    assert [found[step].data_share for step in (0, 100, 200, 599)] == pytest.approx([1, 0.5, 0, 0])
    assert [draw(7, start).first for start in (0, 1, 2, 3, 4)] == [0, 1, 0, 1, 0]
    assert {draw(7, start).num_solver_steps for start in range(8)} == {numbers[7]}
    assert draw(7, depths=(2,)) is None


def test_an_elastic_model_is_made_from_a_preset_and_from_a_trained_model(tiny, tmp_path):
    train(tiny(steps=2, output=str(tmp_path / "plain")))
    plain = load_pipeline(tmp_path / "plain").unet
    assert not plain.config.elastic_depth
    options = {"solver_steps": "4, 1", "steps": 2, "mixed_precision": "bf16"}
    train(tiny(**options, output=str(tmp_path / "new")))
    more = {"start_from": str(tmp_path / "plain"), "model_options": {}, "learning_rate": 1e-9}
    train(tiny(**options, **more, output=str(tmp_path / "more")))
    for name in ("new", "more"):
        pipeline = load_pipeline(tmp_path / name)
        unet, config = pipeline.unet, pipeline.unet.config
        measured = pipeline.facts.solver_steps
        assert (measured.depths, measured.timesteps, len(measured.steps)) == ((1, 4), 1000, 8)
        assert choose_depths(dict(zip(measured.depths, measured.losses, strict=True))) == measured.steps
        assert (config.elastic_depth, config.num_solver_steps, config.integration_time) == (True, 4, 2.0)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        ours, before = (m(x, 5, num_solver_steps=2).sample for m in (unet, plain))
    torch.testing.assert_close(ours, before, atol=1e-5, rtol=1e-5)
    # one number of steps alone
    train(tiny(solver_steps=3, steps=1, output=str(tmp_path / "one")))
    config = load_pipeline(tmp_path / "one").unet.config
    assert (config.elastic_depth, config.num_solver_steps, config.integration_time) == (False, 3, 2.0)


def test_a_finished_run_that_is_resumed_measures_again(tiny, tmp_path):
    """Where a stop came before the measurement, the model has no table yet."""
    config = tiny(solver_steps="1,2", steps=2)
    train(config)
    (file,) = (tmp_path / "run").glob("model/continuous_unet.json")
    content = file.read_text()
    file.unlink()
    train(config, resume=True)
    assert file.read_text() == content


def test_the_choice_of_depths():
    """Each band gets what its loss is worth; the largest gain for each further solver step comes first."""
    losses = {1: [1.0, 1.0, 1.0], 2: [1.0, 0.5, 0.9], 4: [1.0, 0.45, 0.5]}
    assert choose_depths(losses, tolerance=0) == (1, 4, 4)
    assert choose_depths(losses, tolerance=0.05) == (1, 2, 4)
    assert choose_depths(losses, tolerance=0.5) == (1, 2, 1)
    assert choose_depths(losses, tolerance=9) == (1, 1, 1)
    # with 4 solver steps for three bands, the second one's gain is the largest that fits
    assert choose_depths(losses, tolerance=0, budget=4 / 3) == (1, 2, 1)
    assert choose_depths(losses, tolerance=0, budget=1) == (1, 1, 1)
    # what the model predicts changes the scale of a band, and not the choice
    scaled = {depth: [7 * row[0], 0.01 * row[1], 3 * row[2]] for depth, row in losses.items()}
    assert choose_depths(scaled, tolerance=0.05) == (1, 2, 4)
    assert choose_depths(scaled, tolerance=0, budget=4 / 3) == (1, 2, 1)
    # more steps that do no good are not taken
    assert choose_depths({2: [1.0], 4: [1.1], 8: [1.2]}, tolerance=0) == (2,)


def test_losses_by_depth_see_the_same_images_and_noise(tiny, monkeypatch):
    real, drawn = validation.normal, []
    monkeypatch.setattr(validation, "normal", lambda *args: drawn.extend(args[2]) or real(*args))
    config = tiny(num_validation=5, channels=1)
    task = make_task(config)
    _, held_out = open_data(config, task, Processes())
    seen = []

    class Model:
        device, dtype, config = torch.device("cpu"), torch.float32, None

        def __call__(self, x, times, num_solver_steps):
            seen.append((num_solver_steps, x, times))
            return SimpleNamespace(sample=x * 0 + num_solver_steps)

    losses = losses_by_depth(task, Model(), held_out, (1, 3), seed=0, bands=4, measurements=64)
    assert {depth: len(row) for depth, row in losses.items()} == {1: 4, 3: 4}
    # the error of predicting n for standard normal noise is 1 + n^2
    assert losses[1] == pytest.approx([2] * 4, rel=0.1)
    assert losses[3] == pytest.approx([10] * 4, rel=0.1)
    ours, theirs = ([call[1:] for call in seen if call[0] == depth] for depth in (1, 3))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    times = torch.cat([call[1] for call in ours])
    assert len(times.unique()) == len(times) == 65
    assert len(set(drawn)) == 65  # each time with other noise


@pytest.mark.parametrize("text", ["0", "1,1", "1,,2", "2,x", "65", "1.5", "-1,2", ""])
def test_numbers_of_solver_steps_are_checked(text, tiny):
    with pytest.raises(InputError, match=r"--solver-steps .* must be different whole numbers, 1 to 64"):
        tiny(solver_steps=text).validate()


def test_models_without_a_number_of_solver_steps_are_refused(tiny):
    small = {"block_out_channels": [8], "norm_num_groups": 4}
    discrete = tiny(preset="ddpm_small", model_options={**small, "layers_per_block": 1}, solver_steps="1,2")
    with pytest.raises(InputError, match="--solver-steps is for continuous U-Nets, and this model is a UNet2DModel"):
        train(discrete)
    adaptive = {**small, "method": "dopri5", "field_type": "general"}
    with pytest.raises(InputError, match="--solver-steps: elastic_depth=True is for solver steps of equal length"):
        train(tiny(model_options=adaptive, solver_steps="1,2"))
