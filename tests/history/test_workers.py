"""Workers: calls run, at most so many at once; what is dismissed ends, and what hangs holds nobody up."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from queue import SimpleQueue

import pytest

from saltctl.history.workers import Workers


def named(name: str) -> list[threading.Thread]:
    """The threads of some workers."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{name}-")]


def until_none(name: str) -> None:
    """Wait until the last thread of some workers has ended."""
    deadline = time.monotonic() + 10
    while named(name):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_call_is_made_by_as_few_threads_as_can() -> None:
    """One after another in one thread; at once in as many as are allowed, and the others have their turn."""
    workers = Workers(3, "few")
    for number in range(5):
        assert workers.submit(pow, number, 2).result(10) == number * number
        while workers._shared.under_way:
            time.sleep(0.001)
    assert len(named("few")) == 1
    started: SimpleQueue[int] = SimpleQueue()
    go_on = threading.Event()

    def call(number: int) -> int:
        started.put(number)
        go_on.wait(10)
        return number

    futures = [workers.submit(call, number) for number in range(7)]
    assert sorted(started.get(timeout=10) for _ in range(3)) == [0, 1, 2]
    time.sleep(0.05)
    assert started.empty()
    go_on.set()
    assert [future.result(10) for future in futures] == list(range(7))
    assert len(named("few")) == 3
    workers.shutdown()
    until_none("few")


def test_what_a_call_raises_is_its_callers() -> None:
    """And the thread goes on to the next call."""
    workers = Workers(1, "raise")
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 // 0).result(10)
    assert workers.submit(lambda: 1).result(10) == 1
    workers.shutdown()


def test_dismissed_workers_take_no_more_and_end() -> None:
    """What waits is cancelled on request, what runs is not waited for."""
    workers = Workers(1, "dismissed")
    go_on, running = threading.Event(), threading.Event()

    def hang() -> str:
        running.set()
        go_on.wait(10)
        return "done"

    first, second = workers.submit(hang), workers.submit(hang)
    assert running.wait(10)
    workers.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        second.result(10)
    with pytest.raises(RuntimeError, match="dismissed"):
        workers.submit(hang)
    workers.shutdown(cancel_futures=True)  # once more, as whoever closes a history in its own block does
    go_on.set()
    assert first.result(10) == "done"
    until_none("dismissed")


def test_a_system_without_threads_is_an_error_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of none after it."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers = Workers(1, "refused")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            workers.submit(pow, 2, 2)
    assert workers.submit(pow, 2, 3).result(10) == 8
    workers.shutdown()
    until_none("refused")


def test_forgotten_workers_end() -> None:
    """Nobody has to dismiss them."""
    workers = Workers(2, "forgotten")
    assert workers.submit(lambda: 1).result(10) == 1
    del workers
    gc.collect()
    until_none("forgotten")


def test_a_call_that_hangs_keeps_no_process_from_ending() -> None:
    """As a request to a server that does not answer may."""
    program = (
        "import time\nfrom saltctl.history.workers import Workers\nworkers = Workers(2, 'hanging')\n"
        "workers.submit(time.sleep, 300)\nworkers.submit(lambda: 1).result(10)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """Pre-forking servers: the threads that the parent started are not there, and are not waited for."""
    workers = Workers(2, "forked")
    assert workers.submit(pow, 2, 3).result(10) == 8
    read_end, write_end = os.pipe()
    with workers._shared.lock:
        child = os.fork()
        if child == 0:
            try:
                os.write(write_end, str(workers.submit(pow, 3, 3).result(10)).encode())
            finally:
                os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        assert answer.read() == "27"
    assert workers.submit(pow, 2, 4).result(10) == 16
    workers.shutdown()
