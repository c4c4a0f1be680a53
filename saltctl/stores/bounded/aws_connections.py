"""botocore's connections within time budgets, and with a bound on bodies. Import this module only inside functions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from math import inf
from time import monotonic
from typing import Any

from botocore.awsrequest import (  # noqa: TID253  this module is imported where botocore is needed
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from saltctl.stores.bounded.deadline import BoundedTlsSocket, TimeBudget, connect, remaining
from saltctl.stores.bounded.errors import OversizedResponseError, UnreadableResponseError

LONGEST_BODY = 64 << 20
"""Bytes of the longest response that is read. DynamoDB answers with up to 16 MB of values, which JSON makes longer."""
SURELY_OPEN_SECONDS = 10.0
"""Seconds after an answer within which no firewall or balancer forgets a connection: they wait for a minute or more."""


def bound_connections(http: Any) -> None:
    """Give a session of botocore's for HTTP, which has sent nothing yet, the connections of this module."""
    # Private attributes of botocore: it has no public way to another class of connections for one session. If a
    # version has no such attributes, the timeouts of single operations remain.
    with suppress(AttributeError):
        http._manager.pool_classes_by_scheme = http._pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


def close_connections(client: Any) -> None:
    """Close the idle connections of a client at once; those in use close after their response.

    botocore's own ``close`` leaves them to the garbage collection. The client opens new ones if it is used again.
    """
    with suppress(AttributeError):  # private attributes of botocore, as above
        http = client._endpoint.http_session
        containers = [manager.pools for manager in (http._manager, *http._proxy_managers.values())]
        pools = [pool for one in containers for pool in map(one.get, one.keys())]
        http.close()
        for pool in filter(None, pools):  # another thread may have taken one off
            pool.close()


def unreadable(exc: Any) -> UnreadableResponseError | None:
    """Return the error that botocore has wrapped into its own."""
    cause = getattr(exc, "kwargs", {}).get("error")
    return cause if isinstance(cause, UnreadableResponseError) else None


class _Connection(AWSHTTPConnection):
    _answered_at = -inf
    _doubtful = False

    def _new_conn(self) -> Any:  # as urllib3's own subclasses do
        seconds = self.timeout if isinstance(self.timeout, int | float) else sys.maxsize
        try:
            return connect(self._dns_host, self.port, seconds, self.socket_options or ())
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, f"{self.host} did not answer in time: {exc}") from exc
        except OSError as exc:
            raise NewConnectionError(self, f"cannot connect to {self.host}: {exc}") from exc

    def request(self, *args: Any, **more: Any) -> Any:
        """Send a request."""
        self._doubtful = self.sock is not None and monotonic() - self._answered_at >= SURELY_OPEN_SECONDS
        return super().request(*args, **more)

    def getresponse(self) -> Any:
        """Return the response; to read a body that is too long raises UnreadableResponseError.

        A connection that was idle may have been lost without a notice. It leaves half of the budget to another one.
        """
        left = remaining()
        with TimeBudget(left / 2) if self._doubtful and left is not None else nullcontext():
            response: Any = super().getresponse()
        self._answered_at = monotonic()
        stream = response.stream

        def bounded_stream(*_: Any, **more: Any) -> Iterator[bytes]:
            """Yield the body: in one part unless it comes in chunks, since the caller joins parts into a copy."""
            length = 0
            for part in stream(LONGEST_BODY + 1, **more):
                length += len(part)
                if length > LONGEST_BODY:
                    response.close()
                    raise OversizedResponseError(f"its body is longer than {LONGEST_BODY >> 20} MB")
                yield part

        response.stream = bounded_stream
        return response


class _TlsConnection(_Connection, AWSHTTPSConnection):  # type: ignore[misc]  # as AWSHTTPSConnection itself
    def connect(self) -> None:
        """Connect and shake hands."""
        if self.ssl_context is not None:
            self.ssl_context.sslsocket_class = BoundedTlsSocket
        super().connect()


class _Pool(AWSHTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(AWSHTTPSConnectionPool):
    ConnectionCls = _TlsConnection
