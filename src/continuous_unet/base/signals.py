"""Ctrl-C and SIGTERM: finish the step, save, leave. A second one leaves at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM, where Ctrl-C would be a KeyboardInterrupt: it passes every `except Exception` on its way out."""


class Stopped(Exception):
    """A signal arrived while something was being made that can be made again."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class StopRequest:
    """Says whether a signal asked for the end, and which one."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def check(self) -> None:
        """Raises `Stopped` if a signal arrived."""
        if self.signal is not None:
            raise Stopped(self.signal)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within, the first SIGINT or SIGTERM only sets a flag, and a second one raises KeyboardInterrupt or `Terminated`.

    The handlers of before are put back after.
    """
    request = StopRequest()

    def handle(number: int, frame: object) -> None:
        if request.signal is not None:
            leave_at_once(number, frame)
        request.signal = number

    with _handlers({signal.SIGINT: handle, signal.SIGTERM: handle}):
        yield request


def leave_on_signals(request: StopRequest) -> contextlib.AbstractContextManager[None]:
    """Inside `stop_on_signals`, for work of which nothing is kept half done: a signal is noted, and raises at once."""

    def handle(number: int, frame: object) -> None:
        request.signal = number
        leave_at_once(number, frame)

    return _handlers({signal.SIGINT: handle, signal.SIGTERM: handle})


def leave_on_sigterm() -> contextlib.AbstractContextManager[None]:
    """Within, SIGTERM raises `Terminated`, so that what is half done is cleared away as it is after Ctrl-C."""
    return _handlers({signal.SIGTERM: leave_at_once})


def leave_at_once(number: int, frame: object) -> None:
    """A signal handler that raises."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextlib.contextmanager
def _handlers(handlers: dict[int, object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def outlive_first_signal(worker: int) -> None:
    """In a process that loads data: it is to live until the main one, which got the same signal, has saved.

    Ctrl-C goes to the whole group of processes, and so does the SIGTERM of some cluster managers. A worker ends when
    the main process closes its queue, or is gone. The second SIGTERM ends it: that is how Python, when the main process
    exits, ends workers that are left over, and it then waits for them, for ever if need be.
    """

    def only_once(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, only_once)
