"""The search of sampling times: the cheapest path, and times that are better where the best model is known."""

import itertools

import pytest
import torch

from continuous_unet.diffusion.options import FlowOptions, VariancePreservingOptions
from continuous_unet.diffusion.schedule_search import fine_times, search_times, shortest_path
from tests.tasks.test_generation import GaussianDenoiser


@pytest.mark.parametrize("number", [1, 2, 4, 6])
def test_the_path_is_the_cheapest_of_all(number):
    costs = torch.rand(6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def cost(inner):
        return sum(float(costs[a, b]) for a, b in itertools.pairwise([0, *inner, 6]))

    path = shortest_path(costs, number)
    assert len(path) == number
    assert path[0] == 0
    best = min(cost(inner) for inner in itertools.combinations(range(1, 6), number - 1))
    assert cost(path[1:]) == pytest.approx(best)


PROCESSES = {
    "variance preserving": VariancePreservingOptions("v_prediction", "squaredcos_cap_v2"),
    "flow": FlowOptions(shift=1.0),
}


@pytest.mark.parametrize("kind", PROCESSES)
def test_times_lie_in_the_process(kind):
    process = PROCESSES[kind].make()
    times = fine_times(process)
    assert times[0] == process.last_time
    assert all(before > after > 0 for before, after in itertools.pairwise(times))
    ratios = [noise / max(signal, 1e-9) for signal, noise in map(process.coefficients, times)]
    assert 50 < len(times) <= 81
    assert ratios[-1] < 0.02


@pytest.mark.parametrize("kind", PROCESSES)
def test_searched_times_are_nearer_to_many_steps_than_even_ones(kind):
    process = PROCESSES[kind].make()
    process.scheduler.register_to_config(clip_sample=False)
    model, seen = GaussianDenoiser(process.scheduler), set()

    def predictors(times, numbers):
        def predict(x, timestep):
            seen.add(float(timestep))
            return model(x, timestep).sample

        return predict

    noise = [(range(2), torch.randn(2, 1, 4, 4)), (range(2, 3), torch.randn(1, 1, 4, 4))]
    found = search_times(process, predictors, noise, [2, 4, 8])
    assert [len(one.times) for one in found] == [2, 4, 8]
    assert found[0].order == 1
    assert found[2].order == 2, "the paths are smooth"
    for one in found:
        assert one.times[0] == process.last_time
        assert one.error < 0.9 * one.even_error
        assert set(torch.tensor(one.times).tolist()) <= seen
