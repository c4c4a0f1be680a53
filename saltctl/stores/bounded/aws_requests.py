"""botocore's requests within time budgets. Import this module only inside functions: it imports botocore.

botocore's timeouts bound single operations of a socket, and three attempts have three of each. Here one request has one
budget, the client's ``read_timeout``: credentials, names, connecting, the body and the pauses before retries included.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Any

from botocore.awsrequest import (  # noqa: TID253  this module is imported where botocore is needed
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.config import Config  # noqa: TID253
from botocore.exceptions import ClientError, HTTPClientError, ReadTimeoutError  # noqa: TID253
from botocore.hooks import HierarchicalEmitter  # noqa: TID253
from botocore.session import Session  # noqa: TID253
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from saltctl.stores.bounded.aws_credentials import SharedCredentials
from saltctl.stores.bounded.deadline import BoundedTlsSocket, TimeBudget, connect, remaining
from saltctl.stores.bounded.errors import OversizedResponseError, UnreadableResponseError

LONGEST_BODY = 64 << 20
"""Bytes of the longest response that is read. DynamoDB answers with up to 16 MB of values, which JSON makes longer."""
SURELY_OPEN_SECONDS = 10.0
"""Seconds after an answer within which no firewall or balancer forgets a connection: they wait for a minute or more."""
_CREDENTIALS_SECONDS = 10.0
"""The least time of a request for credentials: whoever waits for it has a budget of their own."""

# fmt: off
_REFUSALS = {
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSignatureException",
    "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired", "UnrecognizedClientException",
}
# fmt: on
"""Errors of credentials that have expired or were rotated: other ones may be permitted."""


def create_session(timeout: float) -> Session:
    """Create a session of botocore whose clients, also those that ask for credentials, have time budgets."""
    session = Session(event_hooks=_Events())
    seconds = max(timeout, _CREDENTIALS_SECONDS)
    session.set_default_client_config(Config(connect_timeout=seconds, read_timeout=seconds))
    credentials = SharedCredentials(session)
    base = type("_Client", (_BoundedClient,), {"shared_credentials": credentials})
    session.register("creating-client-class", lambda **event: event["base_classes"].insert(0, base))
    session.register_component("credential_provider", credentials)
    return session


class _BoundedClient:
    """A base of each client's class."""

    _endpoint: Any
    meta: Any
    shared_credentials: SharedCredentials

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        # Private attributes of botocore: it has no public way to another class of connections for one client. If a
        # version has no such attributes, the timeouts of single operations remain.
        with suppress(AttributeError):
            http = self._endpoint.http_session
            http._manager.pool_classes_by_scheme = http._pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def _make_api_call(self, operation_name: str, api_params: Any) -> Any:
        with TimeBudget(self.meta.config.read_timeout):
            try:
                return self._call(partial(super()._make_api_call, operation_name, api_params))  # type: ignore[misc]
            except HTTPClientError as exc:
                raise _unreadable(exc) or exc from exc

    def _call(self, send: Callable[[], Any]) -> Any:
        """Send a request; once more if its credentials were refused and there are other ones now."""
        self.shared_credentials.begin_call()
        first = True
        while True:
            try:
                return send()
            except ClientError as exc:
                refused = exc.response.get("Error", {}).get("Code") in _REFUSALS
                if not refused or not self.shared_credentials.renew(ask=first):
                    if refused:
                        error: dict[str, Any] = exc.response["Error"]  # type: ignore[assignment]
                        error["CredentialsProvider"] = self.shared_credentials.provider
                    raise
            first = False


def _unreadable(exc: Any) -> UnreadableResponseError | None:
    """Return the error that botocore has wrapped into its own."""
    cause = getattr(exc, "kwargs", {}).get("error")
    return cause if isinstance(cause, UnreadableResponseError) else None


class _Events(HierarchicalEmitter):
    """The events of a session. The pause before a retry leaves at least half of the budget to it."""

    def emit(self, event_name: str, **more: Any) -> Any:
        """Emit an event; return the handlers with their responses."""
        responses = super().emit(event_name, **more)
        if not event_name.startswith("needs-retry") or (left := remaining()) is None:
            return responses
        if isinstance(more.get("caught_exception"), ReadTimeoutError):
            more["endpoint"].http_session.close()  # the idle connections may be as dead as this one
        # An attempt that has no time for an answer would only hide the error of the one before.
        least = more["request_dict"]["context"]["client_config"].read_timeout / 10
        if left < least or _unreadable(more.get("caught_exception")):
            return [(handler, None) for handler, _ in responses]
        return [(handler, min(pause, left / 2) if pause else pause) for handler, pause in responses]


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

        def bounded_stream(*args: Any, **more: Any) -> Iterator[bytes]:
            """Yield the parts of the body."""
            length = 0
            for part in stream(*args, **more):
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
