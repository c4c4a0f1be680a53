"""The proxy does to connections what it says, and a seed always gives the same schedule."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.checker.proxy import Proxy
from tests.checker.schedule import Fault, Plan


class Echo:
    """A server that answers every line with its own name before it; ``heard`` is what arrived."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self.heard: list[bytes] = []
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
                    self.heard.append(line)
                    self.arrived.set()
                    connection.sendall(self._name + line)
            except OSError:
                return

    def close(self) -> None:
        """Accept no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def servers() -> Iterator[tuple[Echo, Echo]]:
    """Two servers that can be told apart."""
    both = Echo("a "), Echo("b ")
    yield both
    for server in both:
        server.close()


@pytest.fixture
def proxy(servers: tuple[Echo, Echo]) -> Iterator[Proxy]:
    """A proxy before the first of them."""
    one = Proxy()
    one.start(servers[0].port)
    yield one
    one.stop()


def connect(proxy: Proxy, timeout: float = 10.0) -> socket.socket:
    """A connection through the proxy."""
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout)


def ask(connection: socket.socket, line: bytes = b"hello\n") -> bytes:
    """One line and the answer; empty where the connection ended instead."""
    try:
        connection.sendall(line)
        return connection.recv(100)
    except ConnectionError:
        return b""


def test_it_forwards_and_is_led_to_another_server(proxy: Proxy, servers: tuple[Echo, Echo]) -> None:
    """A connection belongs to one server: it ends, and a new one has the other."""
    with connect(proxy) as before:
        assert ask(before) == b"a hello\n"
        proxy.lead(servers[1].port)
        assert ask(before) == b""
    with connect(proxy) as after:
        assert ask(after) == b"b hello\n"


def test_it_cuts_and_refuses_until_it_is_healed(proxy: Proxy) -> None:
    """Old connections end and new ones end at once."""
    with connect(proxy) as before:
        assert ask(before) == b"a hello\n"
        proxy.cut()
        assert ask(before) == b""
    with connect(proxy) as during:
        assert ask(during) == b""
    proxy.heal()
    with connect(proxy) as after:
        assert ask(after) == b"a hello\n"


def test_it_swallows_answers(proxy: Proxy, servers: tuple[Echo, Echo]) -> None:
    """The server hears what it is told and the client never knows; healed, the connection is gone."""
    with connect(proxy, timeout=0.2) as muted:
        proxy.mute()
        with pytest.raises(TimeoutError):
            ask(muted, b"do it\n")
        assert servers[0].heard == [b"do it\n"]
        proxy.heal()
        assert ask(muted) == b""


def test_what_is_delayed_arrives_though_its_sender_gave_up(proxy: Proxy, servers: tuple[Echo, Echo]) -> None:
    """As on a network: a command may be carried out after the client closed the connection."""
    with connect(proxy, timeout=0.05) as impatient:
        assert ask(impatient)
        servers[0].arrived.clear()
        proxy.delay(0.3)
        with pytest.raises(TimeoutError):
            ask(impatient, b"late\n")
    assert servers[0].arrived.wait(10)
    assert servers[0].heard[-1] == b"late\n"


def test_where_there_is_no_server_connections_end(proxy: Proxy) -> None:
    """As if refused."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    proxy.lead(port)
    with connect(proxy) as nobody:
        assert ask(nobody) == b""


def test_a_seed_gives_the_same_schedule() -> None:
    """And another seed gives another one."""
    assert Plan(7, 60).events() == Plan(7, 60).events()
    assert Plan(7, 60).events() != Plan(8, 60).events()


def test_every_fault_occurs_before_any_occurs_again() -> None:
    """So that a short run has all of them."""
    events = Plan(7, 60).events()
    assert {event.fault for event in events[: len(Fault)]} == set(Fault)
    assert all(before.at < after.at for before, after in pairwise(events))
