"""Ctrl-C and SIGTERM let the present step finish and be saved; a second one ends the process at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM as an exception. Like the KeyboardInterrupt of Ctrl-C, it passes every `except Exception`."""


class Stopped(Exception):
    """A signal ended work that keeps nothing unfinished."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class StopRequest:
    """Records which signal asked the work to stop, if any."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def check(self) -> None:
        """Raises `Stopped` if a signal arrived."""
        if self.signal is not None:
            raise Stopped(self.signal)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Inside this context, the first SIGINT or SIGTERM sets a flag; a second raises KeyboardInterrupt or `Terminated`.

    The previous handlers are restored at the end. In threads other than the main one, this changes nothing.
    """
    request = StopRequest()

    def handle(number: int, frame: object) -> None:
        if request.signal is not None:
            leave_at_once(number, frame)
        request.signal = number

    with _handlers({signal.SIGINT: handle, signal.SIGTERM: handle}):
        yield request


def leave_on_signals(request: StopRequest) -> contextlib.AbstractContextManager[None]:
    """Makes a signal inside `stop_on_signals` raise at once, for work that keeps nothing unfinished."""

    def handle(number: int, frame: object) -> None:
        request.signal = number
        leave_at_once(number, frame)

    return _handlers({signal.SIGINT: handle, signal.SIGTERM: handle})


def leave_on_sigterm() -> contextlib.AbstractContextManager[None]:
    """Inside this context, SIGTERM raises `Terminated`, so that unfinished files are removed as after Ctrl-C."""
    return _handlers({signal.SIGTERM: leave_at_once})


def leave_at_once(number: int, frame: object) -> None:
    """Raises the exception of a signal; it is used as a handler."""
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
    """Makes a data worker survive the first signal, because the main process received it too and has yet to save.

    Ctrl-C goes to the whole group of processes, and so does the SIGTERM of some cluster managers. A worker ends when
    the main process closes its queue or exits. A second SIGTERM ends the worker: this is how Python ends remaining
    workers when the main process exits, and Python then waits for them without a limit.
    """

    def only_once(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, only_once)
