"""Small neural fields for gradient tests, in both forms, with a conditioning argument."""

import torch
from torch import nn

from continuous_unet.ode import METHODS, Relaxation, SplitFieldModule


class General(nn.Module):
    def __init__(self, width=3, dropout=0.0):
        super().__init__()
        self.inner = nn.Linear(2 * width, 2 * width)
        self.emb = nn.Linear(2, 2 * width)
        self.outer = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, t, x, v, emb):
        h = torch.tanh(self.inner(torch.cat([x, v], -1)) + self.emb(emb) * (1 + t))
        return self.outer(self.dropout(h))


class Split(SplitFieldModule):
    def __init__(self, width=3, dropout=0.0):
        super().__init__()
        self.inner = nn.Linear(width, 2 * width)
        self.emb = nn.Linear(2, 2 * width)
        self.outer = nn.Linear(2 * width, 2 * width)
        self.dropout = nn.Dropout(dropout)

    def terms(self, t, x, emb):
        h = torch.tanh(self.inner(x) + self.emb(emb) * (1 + t))
        target, rate = self.outer(self.dropout(h)).chunk(2, -1)
        return Relaxation(target, 1.2 * torch.sigmoid(rate))


def make_field(method, **options):
    return (Split if METHODS[method].uses_terms else General)(**options)
