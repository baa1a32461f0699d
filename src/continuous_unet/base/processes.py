"""The processes of one job, which divide work, agree when to stop, and collect results together.

A signal may reach one process or all of them. All must act on it at the same place, or the others would wait forever.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from continuous_unet.base.errors import InputError
from continuous_unet.base.packages import import_extra
from continuous_unet.base.signals import Stopped, StopRequest

Item = TypeVar("Item")


class Processes:
    """The processes that a launcher (`accelerate launch`, `torchrun`) started; or this process alone.

    Args:
        state: accelerate's `PartialState` or `AcceleratorState`; None for this process alone.
    """

    def __init__(self, state: Any = None) -> None:
        self.state = state
        self.rank: int = 0 if state is None else state.process_index
        self.count: int = 1 if state is None else state.num_processes

    @property
    def main(self) -> bool:
        """Whether this is the process that prints and writes for all."""
        return self.rank == 0

    def rounds(self, items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
        """Yields our share of some items, in as many rounds as every other process has.

        If the items do not divide evenly, processes without one in the last round get a duplicate, marked False.
        All processes have the same number of rounds, so they can communicate between them.
        """
        for first in range(0, len(items), self.count):
            number = first + self.rank
            yield items[min(number, len(items) - 1)], number < len(items)

    def agreed(self, stop: StopRequest) -> int | None:
        """Returns the signal that any of the processes received, or None. All must call this at the same place."""
        if self.count == 1:
            return stop.signal
        return max(self.gather_numbers([stop.signal or 0]))[0] or None

    def check(self, stop: StopRequest) -> None:
        """Raises `Stopped` if any of the processes received a signal. All must call this at the same place."""
        number = self.agreed(stop)
        if number is not None:
            raise Stopped(number)

    def gather_numbers(self, numbers: list[int]) -> list[list[int]]:
        """Returns the numbers of every process, in the order of the processes; all must pass the same count."""
        if self.count == 1:
            return [numbers]
        from accelerate.utils import gather

        return gather(torch.tensor([numbers], device=self.state.device)).tolist()

    def gather(self, items: list[Item]) -> list[Item]:
        """Returns the items of all processes, in the order of the processes."""
        if self.count == 1:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def from_main(self, value: Item) -> Item:
        """Returns the value of the main process, in all processes."""
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
        """Waits until all processes have reached this place."""
        if self.count > 1:
            self.state.wait_for_everyone()

    def end(self) -> None:
        """Leaves the group of processes; nothing can be communicated afterwards."""
        if self.count > 1:
            self.state.destroy_process_group()


def launched_processes(device: str | None) -> Processes:
    """Returns the processes of this job, as the launcher describes them in the environment.

    Raises:
        InputError: if there are several and accelerate is missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    accelerate = import_extra("accelerate", "several processes need accelerate", "train")
    return Processes(accelerate.PartialState(cpu=device == "cpu"))
