"""Time budgets: sockets, names and calls end with the budget of their thread, whatever the other side does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from saltctl.errors import AwsUnavailableError
from saltctl.stores.bounded.aws_credentials import SharedCredentials
from saltctl.stores.bounded.deadline import (
    PATIENCE,
    BoundedSocket,
    SharedCalls,
    TimeBudget,
    connect,
    remaining,
    resolve,
)
from tests.support.forked import in_child
from tests.support.inline_pool import ManualClock
from tests.support.redis_servers import eventually
from tests.support.slow_servers import FullBacklog, Resolver, SlowServer

SHORT = 0.3
LONG = 100.0


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """A resolver that hangs for one name."""
    resolver = Resolver(monkeypatch)
    yield resolver
    resolver.released.set()


def pair(timeout: float | None = None) -> tuple[BoundedSocket, socket.socket]:
    """A bounded socket and its peer."""
    one, other = socket.socketpair()
    bounded = BoundedSocket(one.family, one.type, one.proto, fileno=one.detach())
    bounded.settimeout(timeout)
    return bounded, other


def for_ever(operation: Callable[[], object]) -> None:
    """Repeat an operation until it fails."""
    while True:
        operation()


def left() -> float:
    """The remaining time of a thread that has a budget."""
    seconds = remaining()
    assert seconds is not None
    return seconds


def test_of_nested_budgets_the_one_that_ends_first_counts() -> None:
    """An inner budget cannot extend the outer one, and ends with its block."""
    assert remaining() is None
    with TimeBudget(LONG):
        with TimeBudget(SHORT):
            with TimeBudget(LONG):
                assert left() <= SHORT
            assert left() <= SHORT
        assert left() > SHORT
    assert remaining() is None


def test_a_spent_budget_leaves_nothing() -> None:
    """Nothing is negative, and no operation begins."""
    with TimeBudget(0):
        assert left() == 0
        bounded, peer = pair()
        with bounded, peer, pytest.raises(TimeoutError):
            bounded.sendall(b"too late")


def test_a_budget_is_that_of_its_thread() -> None:
    """Another thread has none."""
    with TimeBudget(SHORT), ThreadPoolExecutor(1) as pool:
        assert pool.submit(remaining).result() is None


def test_data_that_drips_ends_with_the_budget() -> None:
    """Each byte restarts the timeout of a socket, but not the budget. After it, the socket's own timeout is back."""
    with SlowServer(b"", b"x") as server, TimeBudget(LONG), connect("127.0.0.1", server.port, LONG) as sock:
        with TimeBudget(SHORT):
            sock.sendall(b"request")
            with pytest.raises(TimeoutError):
                for_ever(lambda: sock.recv_into(bytearray(10)))
        assert sock.recv(1) == b"x"
        assert (sock.gettimeout() or 0) > SHORT


def test_a_peer_that_reads_nothing_ends_with_the_budget() -> None:
    """So does sending, in one piece and in many."""
    bounded, peer = pair(LONG)
    with bounded, peer, TimeBudget(SHORT), pytest.raises(TimeoutError):
        for_ever(lambda: bounded.sendall(b"x" * 10_000))


def test_a_non_blocking_socket_stays_so() -> None:
    """A budget does not make it wait."""
    bounded, peer = pair(0.0)
    with bounded, peer, TimeBudget(LONG), pytest.raises(BlockingIOError):
        bounded.recv(1)


def test_a_name_that_is_not_resolved_ends_with_the_budget(resolver: Resolver) -> None:
    """All who ask for it wait for one call, each for its own time."""

    def ask(seconds: float) -> None:
        with TimeBudget(seconds), pytest.raises(TimeoutError, match=r"hangs\.test"):
            resolve("hangs.test", 1)

    threads = threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, [SHORT] * 8))
        assert resolver.asked == ["hangs.test"]
    assert threading.active_count() <= threads + 1
    resolver.released.set()
    with TimeBudget(LONG):
        eventually(lambda: bool(resolve("hangs.test", 1)), "the name is resolved")


def test_a_forked_child_resolves_a_name_itself(resolver: Resolver) -> None:
    """It does not wait for a thread that only its parent has."""
    with TimeBudget(0), pytest.raises(TimeoutError):
        resolve("hangs.test", 1)

    def child() -> bool:
        resolver.released.set()  # in the memory of the child
        with TimeBudget(LONG):
            return bool(resolve("hangs.test", 1))

    assert in_child(child)


@pytest.mark.parametrize("host", ["does-not-exist.invalid", "a" * 70 + ".test", "", "a..b"])
def test_a_name_without_an_address_is_an_error(host: str) -> None:
    """Also one that cannot be a name. An empty one may be this machine."""
    with TimeBudget(LONG), pytest.raises(OSError, match=r".+"):
        connect(host, 1, LONG)


def test_each_address_has_its_share() -> None:
    """An address that does not answer leaves time for the next ones."""
    with pytest.MonkeyPatch.context() as patch, FullBacklog(3) as silent, SlowServer(b"", b"x") as server:
        Resolver(patch, {"many.test": [*silent.ports, server.port], "none.test": silent.ports})
        with connect("many.test", 1, 4 * SHORT) as sock:
            assert sock.getpeername()[1] == server.port
        with pytest.raises(TimeoutError):
            connect("none.test", 1, SHORT)


def test_a_call_that_fails_is_made_again() -> None:
    """Each caller gets the exception; the next one starts anew."""
    calls: SharedCalls[int] = SharedCalls("test")
    made: list[int] = []

    def call() -> int:
        made.append(1)
        if len(made) == 1:
            raise ValueError("first")
        return len(made)

    with TimeBudget(LONG):
        with pytest.raises(ValueError, match="first"):
            calls.call("key", call)
        assert calls.call("key", call) == 2


def test_a_call_that_hangs_is_made_again() -> None:
    """One lost answer does not last for ever. If every call hangs, each waits twice as long as the one before it."""
    clock = ManualClock()
    calls: SharedCalls[int] = SharedCalls("test", clock)
    released, made = threading.Event(), iter(range(100))

    def call() -> int:
        number = next(made)
        if number < 3:
            released.wait(LONG)
        return number

    first = calls.start("key", call)
    waiting = [first]
    for seconds in (PATIENCE, 2 * PATIENCE):
        clock.now += seconds - 1
        assert calls.start("key", call) is waiting[-1]
        clock.now += 1
        waiting.append(calls.start("key", call))
    assert len(set(waiting)) == 3
    clock.now += 4 * PATIENCE
    with TimeBudget(LONG):
        assert calls.call("key", call) == 3
    later = calls.start("key", released.wait)
    released.set()
    assert sorted(future.result(LONG) for future in waiting) == [0, 1, 2]
    assert later.result(LONG) is True  # calls of before do not end it


def test_without_threads_a_shared_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has none left: no caller waits for a call that was never made."""
    calls: SharedCalls[int] = SharedCalls("test")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with TimeBudget(LONG):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(OSError, match="no thread"):
                calls.call("key", int)
            with pytest.raises(OSError, match="no thread"):
                connect("redis.test", 1, LONG)
            with pytest.raises(AwsUnavailableError, match="no thread"):
                SharedCredentials(object()).get_frozen_credentials()
        assert calls.call("key", int) == 0
