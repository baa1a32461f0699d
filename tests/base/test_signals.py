import multiprocessing
import os
import signal
import threading
import time

import pytest

from continuous_unet.base.signals import Terminated, leave_on_sigterm, outlive_first_signal, stop_on_signals


def test_the_first_is_noted_the_second_leaves_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_raises_where_nothing_need_be_finished():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), leave_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGINT


def test_other_threads_may_train_too():
    seen = []

    def work():
        with stop_on_signals() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def _worker(ready):
    outlive_first_signal(0)
    ready.set()
    while True:
        time.sleep(0.05)


def test_a_worker_outlives_the_first_and_ends_with_the_second():
    """The second is Python's, at exit, which then waits for the process."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    worker = context.Process(target=_worker, args=(ready,), daemon=True)
    worker.start()
    assert ready.wait(60)
    os.kill(worker.pid, signal.SIGINT)
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == -signal.SIGTERM
