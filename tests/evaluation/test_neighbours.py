"""Precision, recall, density and coverage."""

import math

import pytest
import torch

from continuous_unet.evaluation.quality import neighbours as subject


def normal(count, shift=0.0, seed=0, width=4):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def naive(real, fake):
    """The definitions of the two papers, one pair of points at a time."""

    def reach(points, rank):
        return [sorted(math.dist(a, b) for b in points)[rank] for a in points]

    real, fake = real.tolist(), fake.tolist()
    near, far, own = reach(real, 3), reach(real, 5), reach(fake, 3)
    pairs = [[math.dist(a, b) for b in fake] for a in real]
    rows, columns = range(len(real)), range(len(fake))
    return subject.Neighbours(
        precision=sum(any(pairs[i][j] < near[i] for i in rows) for j in columns) / len(fake),
        recall=sum(any(pairs[i][j] < own[j] for j in columns) for i in rows) / len(real),
        density=sum(pairs[i][j] < far[i] for i in rows for j in columns) / 5 / len(fake),
        coverage=sum(min(pairs[i]) < far[i] for i in rows) / len(real),
    )


@pytest.mark.parametrize("rows", [7, 1000], ids=["in chunks", "at once"])
def test_they_are_those_of_a_naive_second_implementation(rows, monkeypatch):
    monkeypatch.setattr(subject, "ROWS", rows)
    real, fake = normal(40), 0.6 * normal(33, shift=0.8, seed=1)
    expected = naive(real, fake)
    assert 0 < expected.recall < expected.precision < 1
    assert vars(subject.neighbours(real, fake)) == pytest.approx(vars(expected))


def test_two_sets_of_one_distribution_cover_each_other():
    # Naeem et al.: density is 1, and coverage 1 - 1/2^5, for sets of equal size
    found = subject.neighbours(normal(1500), normal(1500, seed=1))
    assert found.density == pytest.approx(1, abs=0.05)
    assert found.coverage == pytest.approx(1 - 2**-5, abs=0.015)


def test_samples_that_are_all_alike_have_precision_and_no_recall():
    real = normal(300, shift=50)  # far from the origin, where float32 is coarse
    found = subject.neighbours(real, real.mean(0).expand(100, -1))
    assert (found.precision, found.recall) == (1, 0)
    assert found.coverage < 0.2
