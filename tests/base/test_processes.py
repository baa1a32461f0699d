"""How processes share work. Real ones are in tests/training/test_loop.py and tests/cli."""

import pytest

from continuous_unet.base.processes import Processes, launched_processes
from continuous_unet.base.signals import Stopped, StopRequest


def one_of(rank, count):
    """As accelerate would describe it; nothing is asked of the others."""
    processes = Processes()
    processes.rank, processes.count = rank, count
    return processes


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("num", [0, 1, 5, 6])
def test_every_item_once_and_as_many_rounds_for_all(num, count):
    items = list("abcdef"[:num])
    shares = [list(one_of(rank, count).rounds(items)) for rank in range(count)]
    assert sorted(item for share in shares for item, ours in share if ours) == items
    assert len({len(share) for share in shares}) == 1


def test_alone_there_is_nobody_to_ask():
    processes, stop = launched_processes("cpu"), StopRequest()
    assert processes.main
    assert processes.gather([1, 2]) == [1, 2]
    assert processes.from_main("x") == "x"
    processes.check(stop)
    stop.signal = 15
    with pytest.raises(Stopped) as caught:
        processes.check(stop)
    assert caught.value.signal == 15
