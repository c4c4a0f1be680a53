"""The proxy's faults affect all connections, and a seed always gives the same schedule."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.checker.proxy import Proxy
from tests.checker.schedule import PAIR_FAULTS, Plan


class Echo:
    """A server that answers every line with its name and the line; ``received`` has the lines."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self.received: list[bytes] = []
        self.arrived = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            try:
                for line in lines:
                    self.received.append(line)
                    self.arrived.set()
                    connection.sendall(self._name + line)
            except OSError:
                return

    def close(self) -> None:
        """Stop the server."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def servers() -> Iterator[tuple[Echo, Echo]]:
    """Two servers with different names."""
    both = Echo("a "), Echo("b ")
    yield both
    for server in both:
        server.close()


@pytest.fixture
def proxy(servers: tuple[Echo, Echo]) -> Iterator[Proxy]:
    """A proxy in front of the first server."""
    one = Proxy()
    one.start(servers[0].port)
    yield one
    one.stop()


def connect(proxy: Proxy, timeout: float = 10.0) -> socket.socket:
    """Open a connection through the proxy."""
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout)


def ask(connection: socket.socket, line: bytes = b"hello\n") -> bytes:
    """Send one line and return the answer, or nothing if the connection ended."""
    try:
        connection.sendall(line)
        return connection.recv(100)
    except ConnectionError:
        return b""


def test_it_forwards_and_can_be_redirected_to_another_server(proxy: Proxy, servers: tuple[Echo, Echo]) -> None:
    """The connection to the old server ends, and a new one reaches the new server."""
    with connect(proxy) as before:
        assert ask(before) == b"a hello\n"
        proxy.redirect(servers[1].port)
        assert ask(before) == b""
    with connect(proxy) as after:
        assert ask(after) == b"b hello\n"


def test_it_cuts_and_refuses_until_it_is_healed(proxy: Proxy) -> None:
    """Open connections end, and new ones end immediately."""
    with connect(proxy) as before:
        assert ask(before) == b"a hello\n"
        proxy.cut()
        assert ask(before) == b""
    with connect(proxy) as during:
        assert ask(during) == b""
    proxy.heal()
    with connect(proxy) as after:
        assert ask(after) == b"a hello\n"


def test_it_drops_replies(proxy: Proxy, servers: tuple[Echo, Echo]) -> None:
    """The server gets the request and the client gets no reply; the connection ends with the fault."""
    with connect(proxy, timeout=0.2) as muted:
        proxy.mute()
        with pytest.raises(TimeoutError):
            ask(muted, b"do it\n")
        assert servers[0].received == [b"do it\n"]
        proxy.heal()
        assert ask(muted) == b""


@pytest.mark.slow
def test_delayed_data_arrives_after_its_sender_disconnected(proxy: Proxy, servers: tuple[Echo, Echo]) -> None:
    """As on a network, a server may execute a command after the client closed the connection."""
    with connect(proxy, timeout=0.05) as client:
        assert ask(client)
        servers[0].arrived.clear()
        proxy.delay(0.3)
        with pytest.raises(TimeoutError):
            ask(client, b"late\n")
    assert servers[0].arrived.wait(10)
    assert servers[0].received[-1] == b"late\n"


def test_without_a_server_connections_end(proxy: Proxy) -> None:
    """The client sees the end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    proxy.redirect(port)
    with connect(proxy) as refused:
        assert ask(refused) == b""


def test_a_seed_gives_the_same_schedule() -> None:
    """Another seed gives another schedule."""
    assert Plan(7, 60).events() == Plan(7, 60).events()
    assert Plan(7, 60).events() != Plan(8, 60).events()


def test_half_of_the_seeds_share_reads() -> None:
    """Independently of whether the settings name the registry; a plan may also say it."""
    plans = [Plan(seed, 1.0) for seed in range(40)]
    assert len({(plan.shares_reads, plan.names_registry) for plan in plans}) == 4
    assert sum(plan.shares_reads for plan in plans) == 20
    assert Plan(0, 1.0, shared=True).shares_reads


def test_every_fault_occurs_before_any_occurs_again() -> None:
    """A short run has all kinds of faults."""
    events = Plan(7, 60).events()
    assert {event.fault for event in events[: len(PAIR_FAULTS)]} == set(PAIR_FAULTS)
    assert all(before.at < after.at for before, after in pairwise(events))
