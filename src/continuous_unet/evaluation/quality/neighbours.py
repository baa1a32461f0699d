"""Precision, recall, density and coverage: how real samples look, and how much of the real images they cover.

FID and KID mix the two. Precision and recall are those of Kynkäänniemi et al. 2019 (arXiv 1904.06991), density and
coverage those of Naeem et al. 2020 (arXiv 2002.09797), with the numbers of neighbours of the papers. The package `prdc`
computes them too, but prints to stdout, and holds all distances in memory.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MANIFOLD = 3
"""Nearest neighbours of precision and recall."""
DENSITY = 5
"""Nearest neighbours of density and coverage."""
ROWS = 1000
"""Number of rows of the matrix of distances that are in memory at a time."""


@dataclass(frozen=True)
class Neighbours:
    """Shares of images that lie near images of the other set; all but density are at most 1."""

    precision: float
    """Share of the samples that lie in the ball of a real image, which reaches to its third nearest real image."""
    recall: float
    """Share of the real images that lie in the ball of a sample, which reaches to its third nearest sample."""
    density: float
    """Mean number of balls that a sample lies in, divided by 5; each is around a real image, to its fifth nearest."""
    coverage: float
    """Share of the real images in whose ball, which reaches to the fifth nearest real image, a sample lies."""


def neighbours(real: Tensor, fake: Tensor) -> Neighbours:
    """Compares features `(N, F)` of real images with features `(M, F)` of samples, more than 5 of each."""
    centre = real.mean(0)  # distances in float32 are exact enough if the features lie around the origin
    real, fake = real - centre, fake - centre
    reach = _reach(real, (MANIFOLD, DENSITY))
    fake_reach = _reach(fake, (MANIFOLD,))[:, 0]
    inside = torch.zeros(2, len(fake), dtype=torch.long)
    recalled = covered = 0
    for start in range(0, len(real), ROWS):
        rows = slice(start, start + ROWS)
        distance = torch.cdist(real[rows], fake)
        inside += torch.stack([(distance < reach[rows, k, None]).sum(0) for k in (0, 1)])
        recalled += int((distance < fake_reach).any(1).sum())
        covered += int((distance.amin(1) < reach[rows, 1]).sum())
    precision, density = float((inside[0] > 0).double().mean()), float(inside[1].double().mean()) / DENSITY
    return Neighbours(precision, recalled / len(real), density, covered / len(real))


def _reach(features: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Returns the distances `(N, len(counts))` of each row to its nearest others of these ranks."""
    parts = []
    for part in features.split(ROWS):
        nearest = torch.cdist(part, features).topk(max(counts) + 1, dim=1, largest=False).values  # the first is itself
        parts.append(nearest[:, list(counts)])
    return torch.cat(parts)
