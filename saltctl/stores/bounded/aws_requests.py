"""botocore's requests within time budgets. Import this module only inside functions: it imports botocore.

botocore's timeouts bound single operations of a socket, and three attempts have three of each. Here one request has one
budget, the client's ``read_timeout``: credentials, names, connecting, the body and the pauses before retries included.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from botocore.config import Config  # noqa: TID253  this module is imported where botocore is needed
from botocore.exceptions import ClientError, HTTPClientError, ReadTimeoutError  # noqa: TID253
from botocore.hooks import HierarchicalEmitter  # noqa: TID253
from botocore.session import Session  # noqa: TID253

from saltctl.stores.bounded.aws_connections import bound_connections, unreadable
from saltctl.stores.bounded.aws_credentials import SharedCredentials
from saltctl.stores.bounded.deadline import TimeBudget, remaining
from saltctl.stores.bounded.errors import wants_proxy_login

_CREDENTIALS_SECONDS = 10.0
"""The least time of a request for credentials: whoever waits for it has a budget of their own."""

# fmt: off
REFUSALS = {
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
        with suppress(AttributeError):  # a private attribute of botocore
            bound_connections(self._endpoint.http_session)

    def _make_api_call(self, operation_name: str, api_params: Any) -> Any:
        with TimeBudget(self.meta.config.read_timeout):
            try:
                return self._call(partial(super()._make_api_call, operation_name, api_params))  # type: ignore[misc]
            except HTTPClientError as exc:
                raise unreadable(exc) or exc from exc

    def _call(self, send: Callable[[], Any]) -> Any:
        """Send a request; once more if its credentials were refused and there are other ones now."""
        self.shared_credentials.begin_call()
        first = True
        while True:
            try:
                return send()
            except ClientError as exc:
                refused = exc.response.get("Error", {}).get("Code") in REFUSALS
                if not refused or not self.shared_credentials.renew(ask=first):
                    if refused:
                        error: dict[str, Any] = exc.response["Error"]  # type: ignore[assignment]
                        error["CredentialsProvider"] = self.shared_credentials.provider
                    raise
            first = False


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
        caught = more.get("caught_exception")
        if left < least or unreadable(caught) or (caught is not None and wants_proxy_login(caught)):
            return [(handler, None) for handler, _ in responses]
        return [(handler, min(pause, left / 2) if pause else pause) for handler, pause in responses]
