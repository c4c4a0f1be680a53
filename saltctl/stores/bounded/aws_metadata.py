"""The metadata services of EC2 and of containers: what their responses say, also those that botocore hides.

botocore takes a service that hangs or answers with something else for one that has no credentials.
"""

from __future__ import annotations

import json
import re
from typing import Any

from botocore.exceptions import (  # noqa: TID253  this module is imported where botocore is needed
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
)

from saltctl.stores.bounded.aws_connections import bound_connections, unreadable
from saltctl.stores.bounded.aws_credential_sources import check_document
from saltctl.stores.bounded.deadline import TimeBudget
from saltctl.stores.bounded.errors import UnreadableResponseError

_SECONDS = 10.0
"""The longest time of one request: botocore bounds single operations alone, by one or two seconds."""
_MEMBERS = ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")
"""What a metadata service's credentials consist of."""
_FORMS = {"/latest/api/token": rb"[!-~]{1,4096}", "/security-credentials/": rb"\s*[\w+=,.@-]{1,64}\s*"}
"""A token, and the name of a role, by the ends of their URLs. Everything else is JSON."""
_STATUSES = {
    400: "refuses the request for a token (400)",
    401: "gave no token, and answers nothing without one (401): containers need a hop limit of 2",
    403: "is switched off, or a proxy answers for it (403)",
    404: "has no role for this instance (404)",
}


class NoSourceError(NoCredentialsError):
    """No source has credentials."""

    fmt = "{places}; {metadata}"


class MetadataNotes:
    """What a metadata service did since its last good response."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        """The service was not reached, did not answer, failed, or is another server."""
        self._url = ""
        self._status = 0

    def answered(self, url: str, status: int) -> None:
        """Note a status that the service answered with."""
        self.failures.clear()
        self._url, self._status = url, status

    def failed(self, url: str, failure: Exception) -> None:
        """Note a request without a usable response."""
        self._url = url
        self.failures.append(failure)

    def outage(self) -> Exception | None:
        """Return why a service that is there gave nothing. One that cannot be reached may not exist: None."""
        away = (ConnectTimeoutError, EndpointConnectionError)
        return next((one for one in self.failures if not isinstance(one, away)), None)

    def describe(self) -> str:
        """Return in words why the metadata service of EC2 has no credentials, which is no outage."""
        if not self._url:
            return "the metadata service of EC2 is disabled (AWS_EC2_METADATA_DISABLED)"
        server = "/".join(self._url.split("/")[:3])
        if self.failures:
            why = f"cannot be reached ({type(self.failures[0]).__name__})"
        else:
            why = _STATUSES.get(self._status, f"answered {self._status}")
        return f"the metadata service at {server} {why}"


class MetadataRequests:
    """Sends the requests of a provider to its metadata service, and notes the results.

    Args:
        http: botocore's session for HTTP.
        notes: what is noted.
    """

    def __init__(self, http: Any, notes: MetadataNotes) -> None:
        bound_connections(http)
        self._http = http
        self._notes = notes

    def send(self, request: Any) -> Any:
        """Send a request and return the response."""
        try:
            with TimeBudget(_SECONDS):
                response = self._http.send(request)
        except Exception as exc:
            self._notes.failed(request.url, unreadable(exc) or exc)
            raise
        status, body = response.status_code, response.content
        if status >= 500 or status == 429:
            self._notes.failed(request.url, UnreadableResponseError(f"it answered {status}"))
        elif status == 200 and not _is_expected(request.url, body):
            self._notes.failed(request.url, UnreadableResponseError("its answer is not that of a metadata service"))
        else:
            self._notes.answered(request.url, status)
            if status == 200 and not _form(request.url):
                check_document(body, _MEMBERS, quoted=("Code", "Message"))
        return response


def _form(url: str) -> bytes:
    return next((form for end, form in _FORMS.items() if url.endswith(end)), b"")


def _is_expected(url: str, body: bytes) -> bool:
    if form := _form(url):
        return re.fullmatch(form, body) is not None
    try:
        json.loads(body)
    except ValueError:
        return False
    return True
