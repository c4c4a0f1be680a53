"""Time budgets: each request to a server has one, whatever the server, the network or the resolver does.

A timeout of a socket bounds a single operation: a reply that drips restarts it with each byte, a name is resolved
without it, and each address of a name has its own. A TimeBudget bounds all that a thread does inside its block.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  getaddrinfo would import it, beside a fork: see saltctl.forks
import socket
import ssl
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from errno import EAGAIN
from ipaddress import ip_address
from time import monotonic
from typing import Any, Generic, Self, TypeVar
from weakref import ref

from saltctl.forks import PerProcess

T = TypeVar("T")
Address = tuple[int, int, int, str, Any]
"""An address as ``socket.getaddrinfo`` returns it."""
_TOLERANCE = 0.02
"""A timeout that exceeds the remaining time by this share stays in force: to set another one costs a system call."""


class _Thread(threading.local):
    budget: ref[TimeBudget] | None = None
    """The innermost budget of this thread. It is dead, and so without effect, if a signal handler raised an exception
    just before the budget was to be taken away: the block that held it has ended."""


_thread = _Thread()


def _ends() -> float | None:
    """Return when the budget of this thread ends, in monotonic seconds; None without a budget."""
    if (known := _thread.budget) is None:
        return None
    if (budget := known()) is None:
        _thread.budget = None
        return None
    return budget.ends


class TimeBudget:
    """Bounds what this thread does inside the block. Of nested budgets the one that ends first counts.

    Sockets of this module, :func:`connect` and :class:`SharedCalls` raise TimeoutError once the budget is spent.

    >>> with TimeBudget(5):
    ...     assert remaining() <= 5
    """

    __slots__ = ("__weakref__", "_outer", "_seconds", "ends")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> Self:
        """Begin the budget."""
        ends, outer = monotonic() + self._seconds, _ends()
        self.ends = ends if outer is None or ends < outer else outer
        self._outer = _thread.budget
        _thread.budget = ref(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Return to the outer budget."""
        _thread.budget = self._outer


def remaining() -> float | None:
    """Return the seconds that are left to this thread, 0 if its budget is spent; None without a budget."""
    return None if (ends := _ends()) is None else max(ends - monotonic(), 0.0)


# Sockets.


class _Bounded:
    """Gives each operation of a socket the smaller one of its own timeout and the remaining time of the thread."""

    own_timeout: Any = None
    """The timeout that was set: seconds, None without one."""
    watch: Callable[[Any, int], None] | None = None
    """Called with the buffer and the number of bytes that ``recv_into`` received. It may raise an error."""
    _in_force: float | None = None
    _unread = b""

    @property
    def relaxed(self) -> bool:
        """Whether the thread has no budget and the socket's own timeout is in force: nothing has to be set."""
        return _ends() is None and self._in_force is self.own_timeout

    def unread(self, data: bytes) -> None:
        """Return data to the socket: the next ``recv_into`` receives it."""
        self._unread = data

    def _take_unread(self, buffer: Any) -> int:
        data, self._unread = self._unread, b""
        buffer[: len(data)] = data
        return self._watched(buffer, len(data))

    def _watched(self, buffer: Any, size: int) -> int:
        if self.watch is not None:
            self.watch(buffer, size)
        return size

    def settimeout(self, value: float | None) -> None:
        """Set the timeout of operations outside of any budget."""
        self.own_timeout = self._in_force = value
        super().settimeout(value)  # type: ignore[misc]

    def _bound(self) -> None:
        ends, left, in_force = _ends(), self.own_timeout, self._in_force
        if left == 0:  # non-blocking
            return
        if ends is not None:
            budget = ends - monotonic()
            if budget <= 0:
                raise TimeoutError("timed out")
            left = budget if left is None or budget < left else left
            if in_force is not None and left <= in_force <= left * (1 + _TOLERANCE):
                return
        if left != in_force:
            super().settimeout(left)  # type: ignore[misc]
            self._in_force = left


class BoundedSocket(_Bounded, socket.socket):
    """A TCP or Unix socket whose operations end with the budget of the thread, except ``send_now`` and ``recv_now``."""

    send_now, recv_now = socket.socket.sendall, socket.socket.recv

    def connect(self, address: Any) -> None:
        """Connect; raises TimeoutError, as every operation does."""
        self._bound()
        socket.socket.connect(self, address)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of the data."""
        self._bound()
        socket.socket.sendall(self, data, flags)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive up to ``size`` bytes."""
        self._bound()
        return socket.socket.recv(self, size, flags)

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        """Receive into a buffer; return the number of bytes."""
        if self._unread:
            return self._take_unread(buffer)
        self._bound()
        return self._watched(buffer, socket.socket.recv_into(self, buffer, size, flags))


class BoundedTlsSocket(_Bounded, ssl.SSLSocket):
    """A TLS socket whose operations end with the budget of the thread."""

    send_now, recv_now = ssl.SSLSocket.sendall, ssl.SSLSocket.recv

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Receive into a buffer; return the number of bytes."""
        if self._unread:
            return self._take_unread(buffer)
        return self._watched(buffer, ssl.SSLSocket.recv_into(self, buffer, nbytes, flags))

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands."""
        self._bound()
        ssl.SSLSocket.do_handshake(self, block)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send some of the data; ``sendall`` calls it, too."""
        self._bound()
        try:
            return ssl.SSLSocket.send(self, data, flags)
        except (ssl.SSLError, ConnectionError):
            self._raise_alert()
            raise

    def _raise_alert(self) -> None:
        """Raise why the server closed the connection. With TLS 1.3 it refuses a client only after the handshake."""
        try:
            self.read(1)
        except ssl.SSLError as exc:
            if "ALERT" in (exc.reason or ""):
                raise
        except OSError:
            return

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002  the name of the method that it overrides
        """Receive up to ``len`` bytes; ``recv`` and ``recv_into`` call it, too."""
        self._bound()
        return ssl.SSLSocket.read(self, len, buffer)


# Calls that cannot be interrupted.


PATIENCE = 5.0
"""Seconds after which a call that was not answered is made again; twice as many after each further one."""


class _Call(Future[T]):
    """A call in progress: from ``stale_at`` on, in monotonic seconds, another caller makes it again."""

    def __init__(self, patience: float, now: float) -> None:
        super().__init__()
        self.patience, self.stale_at = patience, now + patience


class SharedCalls(Generic[T]):
    """Calls that cannot be interrupted, such as to resolve a name. Each runs on a daemon thread.

    Callers of the same key wait for the call in progress instead of starting another. One that hangs is made again,
    each time after a longer while: a server that lost one answer is asked anew, and one that is silent for a day has
    some 14 threads. Each caller waits as long as its own budget lasts. Thread-safe; a forked child makes its own calls.

    Args:
        name: of the threads.
        clock: returns monotonic seconds.
    """

    def __init__(self, name: str, clock: Callable[[], float] = monotonic) -> None:
        self._name = name
        self._clock = clock
        self._in_progress: PerProcess[dict[Hashable, _Call[T]]] = PerProcess(dict)

    def start(self, key: Hashable, call: Callable[[], T]) -> Future[T]:
        """Return the future of the call in progress for this key, or of a new one."""
        calls, now = self._in_progress.get(), self._clock()
        old = calls.get(key)
        if old is not None and now < old.stale_at:
            return old
        new = _Call[T](2 * old.patience if old is not None else PATIENCE, now)
        if old is not None:
            calls[key] = new  # two threads at once may both make it again
        elif (other := calls.setdefault(key, new)) is not new:
            return other
        try:
            threading.Thread(target=self._run, args=(calls, key, call, new), name=self._name, daemon=True).start()
        except BaseException as exc:
            calls.pop(key, None)
            no_thread = isinstance(exc, RuntimeError)  # the system has none left: an outage like any other
            new.set_exception(OSError(EAGAIN, "no thread can be started") if no_thread else exc)
        return new

    def call(self, key: Hashable, call: Callable[[], T]) -> T:
        """Return the result of the call, or raise its exception; TimeoutError once the budget is spent."""
        return self.start(key, call).result(remaining())

    @staticmethod
    def _run(calls: dict[Hashable, _Call[T]], key: Hashable, call: Callable[[], T], future: _Call[T]) -> None:
        try:
            result = call()
        except BaseException as exc:  # raised again in every caller
            SharedCalls._end(calls, key, future)
            future.set_exception(exc)
        else:
            SharedCalls._end(calls, key, future)
            future.set_result(result)

    @staticmethod
    def _end(calls: dict[Hashable, _Call[T]], key: Hashable, future: _Call[T]) -> None:
        if calls.get(key) is future:
            calls.pop(key, None)


# Names and connections.

_names: SharedCalls[Sequence[Address]] = SharedCalls("saltctl-name")


def resolve(host: str, port: int) -> Sequence[Address]:
    """Return the addresses of a host for TCP; raises OSError, and TimeoutError once the budget is spent."""

    def ask() -> Sequence[Address]:
        """Resolve it, whatever that takes."""
        try:
            return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
        except UnicodeError as exc:
            raise OSError(f"{host!r} cannot be a host name") from exc

    try:
        ip_address(host)
    except ValueError:
        try:
            return _names.call((host, port), ask)
        except TimeoutError:
            raise TimeoutError(f"the name {host} was not resolved in time") from None
    return ask()


def connect(
    host: str, port: int, timeout: float, options: Iterable[tuple[int, int, int | bytes]] = ()
) -> BoundedSocket:
    """Connect to the first address of a host that answers. Each address has an equal share of the remaining time.

    Args:
        host: a name or an address.
        port: the port.
        timeout: seconds for all of it, if the budget of the thread does not end earlier; later the socket's timeout.
        options: socket options: level, name and value.

    Raises:
        TimeoutError: no address answered in time.
        OSError: the name cannot be resolved, or every address refuses.
    """
    with TimeBudget(timeout):
        addresses = resolve(host, port)
        failure: OSError = OSError(f"the name {host} has no address")
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            left = remaining() or 0.0
            sock = BoundedSocket(family, kind, protocol)
            try:
                for level, name, value in options:
                    sock.setsockopt(level, name, value)
                with TimeBudget(left / (len(addresses) - number)):
                    sock.connect(address)
                sock.settimeout(timeout)
                return sock
            except OSError as exc:
                sock.close()
                failure = exc
        raise failure
