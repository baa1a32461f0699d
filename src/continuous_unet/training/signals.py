"""Ctrl-C and SIGTERM: finish the step, save, leave. A second one leaves at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class StopRequest:
    """Whether a signal asked for the end, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within, SIGINT and SIGTERM only set a flag; the handlers of before are put back after."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return

    def handle(number: int, frame: object) -> None:
        if request.signal is not None:
            raise KeyboardInterrupt
        request.signal = number

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
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
