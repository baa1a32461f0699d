"""The processes that share one job, and what they must do together: divide work, agree on the end, collect results.

Signals reach one process or all; what they ask for is done by all at the same place, or those left would wait for ever.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from continuous_unet.base.errors import InputError
from continuous_unet.base.signals import Stopped, StopRequest

Item = TypeVar("Item")


class Processes:
    """One process alone, or those that a launcher (`accelerate launch`, `torchrun`) started.

    Args:
        state: accelerate's `PartialState` or `AcceleratorState`; None for this process alone.
    """

    def __init__(self, state: Any = None) -> None:
        self.state = state
        self.rank: int = 0 if state is None else state.process_index
        self.count: int = 1 if state is None else state.num_processes

    @property
    def main(self) -> bool:
        """Whether this is the process that speaks and writes for all."""
        return self.rank == 0

    def rounds(self, items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
        """Our share of some items, in as many rounds as every other process has.

        In the last round some have no item of their own; they get one that another has as well, with False beside it,
        so that all do equally much and can ask each other in between.
        """
        for first in range(0, len(items), self.count):
            number = first + self.rank
            yield items[min(number, len(items) - 1)], number < len(items)

    def agreed(self, stop: StopRequest) -> int | None:
        """The signal that any process got. All must ask, at the same place."""
        if self.count == 1:
            return stop.signal
        return max(self.gather_numbers([stop.signal or 0]))[0] or None

    def check(self, stop: StopRequest) -> None:
        """Give up where any process was told to stop. All must ask, at the same place.

        Raises:
            Stopped: with the signal.
        """
        number = self.agreed(stop)
        if number is not None:
            raise Stopped(number)

    def gather_numbers(self, numbers: list[int]) -> list[list[int]]:
        """The numbers of every process, in their order; all must give equally many."""
        if self.count == 1:
            return [numbers]
        from accelerate.utils import gather

        return gather(torch.tensor([numbers], device=self.state.device)).tolist()

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, those of the first first."""
        if self.count == 1:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def from_main(self, value: Any) -> Any:
        """What the main process has, in all."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value], from_process=0)[0]

    def by_main(self, action: Callable[[], object]) -> None:
        """Lets the main process do something while the others wait.

        Raises:
            InputError: in all processes, if the action raised one.
        """
        problem = None
        if self.main:
            try:
                action()
            except InputError as error:
                if self.count == 1:
                    raise
                problem = str(error)
        problem = self.from_main(problem)
        if problem is not None:
            raise InputError(problem)

    def say(self, text: str) -> None:
        """Prints a line for people on stderr, from the main process, above progress bars."""
        if self.main:
            tqdm.write(text, file=sys.stderr)

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            self.state.wait_for_everyone()

    def end(self) -> None:
        """Leave the group; the last thing to do."""
        if self.count > 1:
            self.state.destroy_process_group()


def launched_processes(device: str | None) -> Processes:
    """The processes of this job, by what a launcher left in the environment.

    Raises:
        InputError: if there are several and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise InputError("several processes need accelerate: pip install 'continuous-unet[train]'") from error
    return Processes(PartialState(cpu=device == "cpu"))
