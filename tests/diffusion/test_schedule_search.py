"""The search of sampling times: the cheapest path, and times that are better where the best model is known."""

import itertools
import math

import pytest
import torch

from continuous_unet.diffusion import schedule_search
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


@pytest.mark.parametrize("kind", PROCESSES)
def test_levels_may_follow_a_power_law(kind):
    process = PROCESSES[kind].make()
    for number in (1, 2, 5):
        for times in schedule_search._power_times(process, number):
            assert len(times) == number
            assert times[0] == process.last_time
            assert all(before > after > 0 for before, after in itertools.pairwise(times))
    halfway = [process.coefficients(times[1]) for times in schedule_search._power_times(process, 2)]
    ratios = [noise / signal for signal, noise in halfway]
    assert ratios == pytest.approx(schedule_search.MID_LEVELS, rel=0.01)


def test_evenly_spread_times_stay_where_nothing_is_better_for_all_images(monkeypatch):
    """The choice does not depend on how the images are divided, and images after the first 16 count."""
    process = PROCESSES["flow"].make()
    even, tried = tuple(process.sampling_times(4)), []

    def distance(process, predictors, noise, ends, times, order):
        count = sum(len(images) for images, _ in noise)
        tried.append((count, times, order))
        return 0.5 if (times, order) == (even, 1) and count == 20 else 1 / (1 + math.log(times[1]))

    monkeypatch.setattr(schedule_search, "_distance", distance)
    for sizes in ((20,), (7, 7, 6), (1,) * 20):
        ends = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
        noise = [(range(a, b), torch.zeros(b - a, 1, 2, 2)) for a, b in itertools.pairwise(ends)]
        monkeypatch.setattr(schedule_search, "_follow", lambda *args: torch.zeros(1))
        tried.clear()
        (found,) = search_times(process, lambda times, images: None, noise, [4])
        on_all = {(times, order) for count, times, order in tried if count == 20}
        assert {count for count, _, _ in tried} == {16, 20}
        assert len(on_all) <= 5
        assert (even, 1) in on_all
        assert found.even_error == 0.5
        assert found.error <= found.even_error
