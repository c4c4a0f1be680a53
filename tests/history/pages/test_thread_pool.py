"""The thread pool: it runs a bounded number of calls at once, ends when it is shut down, and works after a fork."""

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

from saltctl.errors import UnavailableError, UsageError
from saltctl.history.pages.thread_pool import ThreadPool


def named(name: str) -> list[threading.Thread]:
    """Return the threads of a pool."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{name}-")]


def until_none(name: str) -> None:
    """Wait until the last thread of a pool has ended."""
    deadline = time.monotonic() + 10
    while named(name):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_calls_use_as_few_threads_as_possible() -> None:
    """Calls one after another use one thread; calls at once use up to the maximum, and the others wait."""
    pool = ThreadPool(3, "few")
    for number in range(5):
        assert pool.submit(pow, number, 2).result(10) == number * number
        while pool.in_progress:
            time.sleep(0.001)
    assert len(named("few")) == 1
    started: SimpleQueue[int] = SimpleQueue()
    resume = threading.Event()

    def call(number: int) -> int:
        started.put(number)
        resume.wait(10)
        return number

    futures = [pool.submit(call, number) for number in range(7)]
    assert sorted(started.get(timeout=10) for _ in range(3)) == [0, 1, 2]
    time.sleep(0.05)
    assert started.empty()
    resume.set()
    assert [future.result(10) for future in futures] == list(range(7))
    assert len(named("few")) == 3
    pool.shutdown()
    until_none("few")


def test_an_exception_goes_to_the_caller() -> None:
    """The thread then runs the next call."""
    pool = ThreadPool(1, "raise")
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(10)
    assert pool.submit(lambda: 1).result(10) == 1
    pool.shutdown()


def test_a_pool_that_was_shut_down_refuses_calls_and_ends() -> None:
    """Waiting calls are cancelled on request, and a running call is not waited for."""
    pool = ThreadPool(1, "shut down")
    resume, running = threading.Event(), threading.Event()

    def hang() -> str:
        running.set()
        resume.wait(10)
        return "done"

    first, second = pool.submit(hang), pool.submit(hang)
    assert running.wait(10)
    pool.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        second.result(10)
    with pytest.raises(UsageError, match="this shut down is closed"):
        pool.submit(hang)
    pool.shutdown(cancel_futures=True)  # again, as a caller does that closes a history inside its own block
    resume.set()
    assert first.result(10) == "done"
    until_none("shut down")


def test_a_failed_thread_start_is_an_error_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an outage, and later calls work."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = ThreadPool(1, "refused")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(UnavailableError, match="can't start"):
            pool.submit(pow, 2, 2)
    assert pool.submit(pow, 2, 3).result(10) == 8
    pool.shutdown()
    until_none("refused")


def test_without_another_thread_a_call_waits_for_one_that_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no thread left: the calls of a page run one after another."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool, begun, resume = ThreadPool(2, "busy"), threading.Event(), threading.Event()

    def wait() -> bool:
        begun.set()
        return resume.wait(30)

    first = pool.submit(wait)
    assert begun.wait(10)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        second = pool.submit(pow, 2, 3)
    resume.set()
    assert (first.result(10), second.result(10)) == (True, 8)
    pool.shutdown()
    until_none("busy")


def test_a_call_that_raises_ends_no_thread() -> None:
    """It must not, but if it does, whatever it raises, the pool keeps its only thread."""

    def fail() -> None:
        raise SystemExit

    pool = ThreadPool(1, "failing")
    for _ in range(3):
        pool.start(fail)
    assert pool.submit(pow, 2, 3).result(10) == 8
    pool.shutdown()
    until_none("failing")


@pytest.mark.slow
def test_the_threads_of_a_collected_pool_end() -> None:
    """No shutdown is needed."""
    pool = ThreadPool(2, "collected")
    assert pool.submit(lambda: 1).result(10) == 1
    del pool
    gc.collect()
    until_none("collected")


def test_a_hanging_call_does_not_keep_the_process_alive() -> None:
    """A request to a silent server may hang."""
    program = (
        "import time\nfrom saltctl.history.pages.thread_pool import ThreadPool\npool = ThreadPool(2, 'hanging')\n"
        "pool.submit(time.sleep, 300)\npool.submit(lambda: 1).result(10)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_its_own_threads() -> None:
    """The child of a pre-forking server has none of the parent's threads, and a new lock in place of a held one."""
    locks: list[threading.Lock] = []

    def new_lock() -> threading.Lock:
        locks.append(threading.Lock())
        return locks[-1]

    pool = ThreadPool(2, "forked", new_lock=new_lock)
    assert pool.submit(pow, 2, 3).result(10) == 8
    read_end, write_end = os.pipe()
    with locks[0]:
        child = os.fork()
        if child == 0:
            try:
                os.write(write_end, str(pool.submit(pow, 3, 3).result(10)).encode())
            finally:
                os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        assert answer.read() == "27"
    assert pool.submit(pow, 2, 4).result(10) == 16
    pool.shutdown()
