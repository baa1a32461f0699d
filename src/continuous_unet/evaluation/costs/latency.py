"""Latency, measured so that it can be compared: warmed up, interleaved, as medians with their spread."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json

QUARTILES = (25, 50, 75)


@dataclass(frozen=True)
class Latency:
    """The latency of one callable in milliseconds, and its ratio to the first one that was measured with it."""

    median_ms: float
    p25_ms: float
    p75_ms: float
    repeats: int
    ratio: float = 1.0
    """Median over the rounds of the time relative to the first callable in the same round."""
    ratio_p25: float = 1.0
    ratio_p75: float = 1.0
    min_ms: float = 0.0
    num_threads: int = 1
    """Threads that one operation may use on the CPU."""
    device: str = "cpu"
    """The device that was synchronised."""

    def to_dict(self) -> Json:
        """Returns the values as JSON holds them."""
        return asdict(self)


def measure_latency(
    functions: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 20,
    warmup: int = 3,
    device: torch.device | None = None,
    rest: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Times callables in turns, so that a machine that slows down slows all of them.

    They run as they are: wrap inference in `torch.no_grad` yourself.

    Args:
        functions: name to callable without arguments; ratios are to the first.
        repeats: rounds; each calls every function once.
        warmup: rounds before those that count.
        device: synchronised around each call if it is a CUDA device.
        rest: seconds of sleep before each timed call, and then one that does not count. Threads of one runtime that
            wait for work by spinning take the cores from the next, and its own must wake up first.
        clock: seconds.

    Raises:
        InputError: for no function, no repeats, or a negative warmup.
    """
    if not functions or repeats < 1 or warmup < 0:
        raise InputError(
            f"{len(functions)} functions, repeats={repeats}, warmup={warmup}: nothing can be timed; "
            "give at least one function, one repeat, and no negative warmup"
        )

    def wait() -> None:
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)

    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            if rest:
                time.sleep(rest)
                function()
            wait()
            started = clock()
            function()
            wait()
            if turn >= warmup:
                times[name].append((clock() - started) * 1000)
    first = np.array(next(iter(times.values())))
    threads, where = torch.get_num_threads(), str(device or "cpu")
    results = {}
    for name, values in times.items():
        p25, median, p75 = map(float, np.percentile(values, QUARTILES))
        low, ratio, high = map(float, np.percentile(np.array(values) / first, QUARTILES))
        results[name] = Latency(median, p25, p75, repeats, ratio, low, high, min(values), threads, where)
    return results
