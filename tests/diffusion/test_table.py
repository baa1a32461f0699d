"""Sampling from a table: it is DDIM, Euler's method, or DDPM's own way back, whatever the process."""

import pytest
import torch
from diffusers import DDPMScheduler

from continuous_unet.diffusion.options import PROCESSES, FlowOptions
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.samplers import set_timesteps
from continuous_unet.diffusion.table import Row, TableSampler, make_rows
from continuous_unet.diffusion.variance_preserving import PREDICTION_TYPES

KINDS = {
    **{kind: lambda kind=kind: process_of(DDPMScheduler(prediction_type=kind)) for kind in PREDICTION_TYPES},
    "not clipped": lambda: process_of(DDPMScheduler(clip_sample=False)),
    "flow": lambda: FlowOptions(shift=2.0).make(),
}


def predicted(x, time):
    return torch.sin(3 * x + float(time) / 300)  # stands for a model


@pytest.mark.parametrize("kind", KINDS)
def test_evenly_spread_rows_are_diffusers_first_sampler(kind):
    process, images = KINDS[kind](), []
    for sampler in (process.make_sampler(), TableSampler(process)):
        x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        set_timesteps(sampler, 8)
        for time in sampler.timesteps:
            x = sampler.step(predicted(x, time), time, x).prev_sample
        images.append(x)
    torch.testing.assert_close(images[0], images[1], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["v_prediction", "not clipped", "flow"])
def test_rows_of_second_order_are_diffusers_dpm_solver(kind):
    process, images = KINDS[kind](), []
    if kind == "v_prediction":
        process.scheduler.register_to_config(clip_sample=False)
    theirs = process.make_sampler("dpm++")
    set_timesteps(theirs, 6)
    rows = make_rows(process, [float(time) for time in theirs.timesteps], order=2)
    ours = TableSampler(process, {6: rows})
    for sampler in (theirs, ours, ours):  # and again
        x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        set_timesteps(sampler, 6)
        for time in sampler.timesteps:
            x = sampler.step(predicted(x, time), time, x).prev_sample
        images.append(x)
    torch.testing.assert_close(images[0], images[1], rtol=1e-4, atol=1e-3 if kind == "flow" else 1e-4)
    assert torch.equal(images[1], images[2])
    assert [row.correction != 0 for row in rows] == [False, True, True, True, True, False]


def test_a_sampling_that_starts_in_the_middle_has_no_row_before():
    process = PROCESSES["flow"]().make()
    sampler = TableSampler(process, {4: make_rows(process, [900, 700, 400, 100], order=2)})
    x, prediction = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    sampler.set_timesteps(4)
    sampler.step(torch.randn(2, 1, 4, 4), 900, x)  # of a sampling before
    sampler.set_begin_index(2)
    after = sampler.step(prediction, 400, x).prev_sample
    torch.testing.assert_close(after, x - 0.3 * prediction)  # Euler's method


def test_tables_are_chosen_by_the_number_of_steps():
    process = PROCESSES["flow"]().make()
    sampler = TableSampler(process, {2: make_rows(process, [1000, 300.5])})
    sampler.set_timesteps(2)
    assert sampler.timesteps.tolist() == [1000, 300.5]
    assert [row.next_timestep for row in sampler.rows] == [300.5, 0]
    sampler.set_timesteps(3)
    assert sampler.timesteps.tolist() == pytest.approx([1000, 1000 * 2 / 3, 1000 / 3])
    assert process_of(sampler) is process


def test_fresh_noise_replaces_the_predicted_one():
    process = PROCESSES["flow"]().make()
    x, prediction = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    sampler = TableSampler(process, {2: make_rows(process, [1000, 500], fresh=True)})
    sampler.set_timesteps(2)
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    after = sampler.step(prediction, 1000, x, generator=generators).prev_sample
    noise = torch.cat([torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(k)) for k in range(2)])
    torch.testing.assert_close(after, 0.5 * (x - prediction) + 0.5 * noise)
    last = sampler.step(prediction, 500, after, generator=generators).prev_sample
    torch.testing.assert_close(last, after - 0.5 * prediction), "the last step adds none"


@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_ancestral_steps_keep_the_distribution(kind):
    """The right prediction for known images leads from the noise at one time to that at another."""
    process = KINDS[kind]()
    row = Row(700.0, *process.coefficients(700.0), *process.coefficients(300.0))
    clean, noise = torch.full((1, 1, 400, 400), 0.5), torch.randn(1, 1, 400, 400)
    noised = process.add_noise(clean, noise, torch.tensor([700.0]))
    after = row.ancestral_step(process, noised.x_t, noised.target, torch.randn(1, 1, 400, 400))
    unit = (after - row.next_signal * clean) / row.next_noise
    assert float(unit.mean()) == pytest.approx(0, abs=0.01)
    assert float(unit.std()) == pytest.approx(1, abs=0.01)
    shared = float((unit * noise).mean())  # the process adds noise to the noise of earlier times
    assert shared == pytest.approx(row.signal / row.next_signal * row.next_noise / row.noise, abs=0.01)
