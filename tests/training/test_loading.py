"""How a run reads its images, by device, settings and data."""

import pytest
import torch

from continuous_unet.base.errors import InputError
from continuous_unet.base.processes import Processes
from continuous_unet.training import loading
from continuous_unet.training.config import DataSettings


class Data:
    """Images that can be kept if nothing is the matter."""

    def __init__(self, problem=None, most_readers=99):
        self.problem, self.most_readers = problem, most_readers

    def obstacle(self, device, processes):
        return self.problem

    def keep(self, device):
        return device.type


CASES = [
    ("cpu", {}, None, {"num_workers": 0}),
    ("cpu", {"num_workers": 3}, None, {"num_workers": 3}),
    ("cpu", {"keep_in_memory": "yes"}, None, {"kept": "cpu"}),
    ("cuda", {}, None, {"kept": "cuda"}),
    ("cuda", {"num_workers": 2}, None, {"num_workers": 2}),
    ("cuda", {"num_workers": 0}, None, {"kept": "cuda"}),
    ("cuda", {"keep_in_memory": "no"}, None, {"num_workers": 6}),
    ("cuda", {}, "too large", {"num_workers": 6}),
    ("mps", {}, None, {"num_workers": 0}),
]


@pytest.mark.parametrize(("device", "given", "problem", "expected"), CASES)
def test_the_way_of_loading(device, given, problem, expected, monkeypatch):
    monkeypatch.setattr(loading, "usable_cores", lambda: 6)
    found = loading.how_to_load(DataSettings(**given), Data(problem), torch.device(device), Processes())
    assert found == expected


def test_each_reader_of_a_stream_needs_a_shard_and_what_cannot_be_kept_is_refused(monkeypatch):
    monkeypatch.setattr(loading, "usable_cores", lambda: 6)
    stream, device = Data("a stream has no end", most_readers=2), torch.device("cuda")
    assert loading.how_to_load(DataSettings(), stream, device, Processes()) == {"num_workers": 2}
    with pytest.raises(InputError, match="--keep-in-memory yes: a stream has no end; leave it out"):
        loading.how_to_load(DataSettings(keep_in_memory="yes"), stream, device, Processes())
