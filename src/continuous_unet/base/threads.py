"""The threads of PyTorch on a CPU: as many as the process may use cores, fewer while other programs need some, and a
bounded wait for each other.

What `prepare_threads` sets only counts if it is set before torch is imported, so this module imports none.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which people choose how threads wait."""
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")
"""Variables by which people choose the number of threads."""
SPINS = 16000
"""How many times a thread looks whether the others are ready before it goes to sleep: for about half a millisecond. By
default it would look for some milliseconds, on a core that another program may need."""


def prepare_threads(environment: MutableMapping[str, str] | None = None) -> None:
    """Chooses how many threads torch will have, and how they wait, unless the user has chosen.

    It does nothing if torch is there already, whose threads are settled.

    Args:
        environment: where to set variables; `os.environ` if None.
    """
    if environment is None:
        if "torch" in sys.modules:
            return
        environment = os.environ
    if not any(name in environment for name in WAITING):
        environment["GOMP_SPINCOUNT"] = str(SPINS)
    if not any(name in environment for name in COUNTS):
        quota = cpu_quota()
        if quota is not None and quota < allowed_cores():  # torch itself heeds the affinity, but no quota
            environment["OMP_NUM_THREADS"] = str(usable_cores())


def usable_cores() -> int:
    """Returns the number of cores that this process may use, at least 1: those it may run on, and its quota of time."""
    quota = cpu_quota()
    return allowed_cores() if quota is None else max(1, min(allowed_cores(), math.ceil(quota)))


def allowed_cores() -> int:
    """Returns the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class CoreShare:
    """Chooses the number of threads by what other programs leave of the cores, which it looks at every two seconds.

    Threads wait for each other after each operation. If one of them has to wait for its core because another program
    is there, so do all; a training with one thread fewer is then several times faster. Two programs that both look do
    not change places forever, because each goes half of the way at a time.

    Args:
        most: the largest number of threads, which is the first.
        busy: returns the seconds of processor time that other programs have taken so far of the cores that this
            process may run on; None if that cannot be known.
    """

    PERIOD = 2.0
    """Seconds between two looks."""

    def __init__(self, most: int, busy: Callable[[], float | None] | None = None) -> None:
        self.most = most
        self.threads = most
        self.cores = allowed_cores()
        self._busy = busy or time_of_others
        self._before = (time.monotonic(), self._busy())

    def look(self) -> int | None:
        """Returns the new number of threads; None if it stays as it is."""
        started, before = self._before
        if before is None or time.monotonic() - started < self.PERIOD:
            return None
        now, busy = time.monotonic(), self._busy()
        self._before = (now, busy)
        if busy is None:
            return None
        left = round(self.cores - max(0.0, busy - before) / (now - started))
        middle = (self.threads + max(1, min(self.most, left))) / 2
        threads = math.floor(middle) if middle < self.threads else math.ceil(middle)
        if threads == self.threads:
            return None
        self.threads = threads
        return threads


def chosen_by_user(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether the number of threads is settled by a variable of the environment."""
    return any(name in environment for name in COUNTS)


def time_of_others(root: Path = Path("/")) -> float | None:
    """Returns the seconds that other processes have computed on the cores that this one may run on, since the start of
    the machine; None where the system does not tell.

    Processes that were started with `nice` do not count, because they give way, unless this one was too.

    Args:
        root: where `proc` is.
    """
    try:
        lines = (root / "proc/stat").read_text(encoding="utf-8").splitlines()
        cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        # user, nice, system, idle, waiting for disks, interrupts of two kinds
        counts = [list(map(int, line.split()[1:8])) for line in lines if line.split()[0] in cores]
        nice = os.nice(0) > 0
        ticks = sum(
            user + (niced if nice else 0) + system + hard + soft for user, niced, system, _, _, hard, soft in counts
        )
        own = os.times()
        return ticks / os.sysconf("SC_CLK_TCK") - own.user - own.system if counts else None
    except (OSError, ValueError, AttributeError, IndexError):  # not Linux
        return None


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Returns how many cores' time the control groups of this process (version 1 and 2) allow it; None for no limit.

    Args:
        root: where `proc` and `sys` are.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    groups = root / "sys/fs/cgroup"
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        tops = [groups / "cpu", groups / controllers] if controllers else [groups, groups / "unified"]
        for top in tops:
            own = top / path.strip("/")
            # a container often sees its own group as the top, while the path is that of the host
            for folder in [own, *(parent for parent in own.parents if parent.is_relative_to(top))]:
                limit = _limit(folder)
                if limit is not None:
                    found.append(limit)
    return min(found, default=None)


def _limit(folder: Path) -> float | None:
    """Returns the limit of one control group, in cores; None for no limit."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()[:2]
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip() for name in ("quota", "period")
            )
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 and float(period) > 0 else None
    except (OSError, ValueError):
        return None
