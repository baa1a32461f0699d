"""The counter-based random numbers: published words, those of `runtime.py`, and how they are distributed."""

import itertools
import math

import numpy as np
import pytest
import torch

from continuous_unet.deploy.standalone import runtime
from continuous_unet.diffusion.draws import Stream, halves, normal, philox, seed_dropout, uniform
from tests.random123 import VECTORS


@pytest.mark.parametrize("counter", VECTORS, ids=["zeros", "ones", "digits of pi"])
def test_philox_gives_the_published_words(counter):
    key, words = VECTORS[counter]
    assert [int(word) for word in philox(key, tuple(torch.tensor([c]) for c in counter))] == list(words)


def test_philox_gives_the_words_of_exported_models():
    generator = np.random.default_rng(0)
    counters = generator.integers(0, 2**32, (1000, 4), dtype=np.uint32)
    key = (0x89ABCDEF, 0xFEDCBA98)
    ours = philox(key, tuple(torch.from_numpy(counters.astype(np.int64)).unbind(1)))
    assert np.array_equal(torch.stack(ours, dim=1).numpy(), runtime.philox(key, counters))


def test_counters_broadcast():
    counters = (torch.arange(5)[None], torch.arange(7)[:, None], torch.tensor(3), torch.tensor(2**32 - 1))
    words = philox((1, 2), counters)
    apart = philox((1, 2), tuple(c.contiguous() for c in torch.broadcast_tensors(*counters)))
    assert all(torch.equal(a, b) for a, b in zip(words, apart))
    assert words[0].shape == (7, 5)
    assert counters[0].tolist() == [[0, 1, 2, 3, 4]], "the counters themselves are left as they were"


@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (3, 16, 16)])
def test_noise_is_that_of_exported_models(shape):
    seed, positions = 3 + 2**40, [0, 1, 2**31, 2**32 - 1]
    ours = normal(seed, 2, positions, shape)
    theirs = np.stack([runtime.normal_noise(seed, position, shape, stream=2) for position in positions])
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=3e-6)
    assert ours.dtype == torch.float32


@pytest.mark.parametrize(("shape", "threads"), [((1, 5, 7), 1), ((3, 16, 16), 1), ((3, 40, 40), 1), ((3, 40, 40), 2)])
def test_noise_is_the_same_however_a_batch_is_divided(shape, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        positions = range(10**10, 10**10 + 31)
        whole = normal(0, Stream.TRAINING_NOISE, positions, shape)
        for size in (1, 3, 17):
            pieces = [normal(0, Stream.TRAINING_NOISE, positions[s : s + size], shape) for s in range(0, 31, size)]
            assert torch.equal(whole, torch.cat(pieces))
        order = [10**10 + 30, 10**10, 10**10 + 7]
        assert torch.equal(whole[[30, 0, 7]], normal(0, Stream.TRAINING_NOISE, order, shape))
    finally:
        torch.set_num_threads(before)


def test_every_coordinate_counts():
    draws = {
        tuple(normal(seed, stream, [position], (4,))[0].tolist())
        for seed in (0, 1, 2**32, 2**63)
        for stream in Stream
        for position in (0, 1, 2**32, 2**40)
    }
    assert len(draws) == 4 * len(Stream) * 4


def test_streams_positions_and_seeds_are_uncorrelated():
    count = 2**14
    draws = [
        normal(seed, stream, [position], (count,))[0].double()
        for seed, stream, position in itertools.product((0, 1), (1, 2), (0, 1, 2**32))
    ]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlations.abs().max() < 4.5 / math.sqrt(count)
    lagged = torch.stack([draws[0][lag : count - 8 + lag] for lag in range(8)])
    assert (torch.corrcoef(lagged) - torch.eye(8)).abs().max() < 4.5 / math.sqrt(count)


def test_noise_is_standard_normal():
    noise = normal(0, Stream.TRAINING_NOISE, range(256), (3, 32, 32)).double().flatten()
    count = len(noise)
    for power, moment in {1: 0, 2: 1, 3: 0, 4: 3, 6: 15}.items():
        error = math.sqrt(math.prod(range(1, 2 * power, 2)) / count)  # of a mean of x^power is at most E x^(2 power)
        assert abs(float((noise**power).mean()) - moment) < 4.5 * error
    cdf = torch.special.ndtr(noise.sort().values)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    distance = torch.maximum((steps[1:] - cdf).abs().max(), (cdf - steps[:-1]).abs().max())
    assert distance < 1.95 / math.sqrt(count)  # Kolmogorov and Smirnov: a probability of 0.001
    assert 4.2 < noise.abs().max() < 6.7


def test_uniform_numbers_are_even_and_below_one():
    numbers = uniform(5, Stream.TRAINING_TIMES, range(2**14)).double()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    count = len(numbers)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    ordered = numbers.sort().values
    assert torch.maximum((steps[1:] - ordered).abs().max(), (ordered - steps[:-1]).abs().max()) < 1.95 / count**0.5
    assert torch.equal(numbers[7:9], uniform(5, Stream.TRAINING_TIMES, [7, 8]).double())


def test_nothing_to_draw():
    assert normal(0, 1, [], (3, 4, 4)).shape == (0, 3, 4, 4)
    assert uniform(0, 1, []).shape == (0,)


def test_dropout_differs_by_step_part_and_process():
    draws = set()
    for coordinates in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)):
        seed_dropout(*coordinates)
        draws.add(float(torch.rand(())))
    assert len(draws) == 5


def test_positions_may_be_a_tensor_of_their_words():
    positions = [3, 2**40 + 1, 2**64 - 1]
    words = halves(positions, torch.device("cpu"))
    assert torch.equal(normal(7, 1, words, (2, 3)), normal(7, 1, positions, (2, 3)))
    assert torch.equal(uniform(7, 1, words), uniform(7, 1, positions))
