"""The conversion of botocore's errors to saltctl's."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    ConfigurationError,
    SaltctlError,
    ThrottledError,
)
from saltctl.stores.aws.failures.configuration import invalid_profile, unreadable_files
from saltctl.stores.aws.failures.credentials import credentials_error
from saltctl.stores.aws.failures.refusals import (
    UNSENDABLE,
    is_unsendable,
    proxy_login_error,
    refusal_error,
)
from saltctl.stores.aws.failures.responses import own_requests
from saltctl.stores.bounded.aws_endpoints import proxy_of
from saltctl.stores.bounded.errors import (
    NO_REGION_HINT,
    OPEN_FILES_HINT,
    PROXY_HINT,
    CredentialsFailedError,
    UnreadableResponseError,
    open_files_problem,
    wants_proxy_login,
)
from saltctl.stores.throttle_notes import note_throttle
from saltctl.urls import mask_url

# fmt: off
_THROTTLES = {
    "ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottlingException", "Throttling",
    "TooManyRequestsException", "RequestThrottled", "RequestThrottledException", "SlowDown", "ThrottledException",
    "429",
}
# fmt: on
_MISSING = ("ResourceNotFoundException", "TableNotFoundException")
_LONGEST_MESSAGE = 300
_REGION_OF_HOST = re.compile(r"//[\w-]+\.([\w-]+)\.amazonaws\.com")
_NO_CREDENTIALS_HINT = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret\naws sts get-caller-identity"
_NAME_HINT = "check the table's name\nsaltctl config show"
_DOCTOR = "saltctl doctor --only backup"
_CONNECTION_LOST = re.compile(
    "EOF|timed out|SYSCALL|reset by peer|broken pipe|bad.record.mac|decryption.failed", re.IGNORECASE
)
"""In the text of a TLS error. Every other one, such as of a certificate, stays until something is changed."""


def error_code(exc: Exception) -> str:
    """Return the service's error code, such as ``ResourceNotFoundException``; empty if there is none."""
    response: dict[str, Any] = getattr(exc, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def is_throttling(exc: Exception) -> bool:
    """Return whether an exception of botocore says that AWS throttles."""
    return error_code(exc) in _THROTTLES


def note_throttles(client: Any) -> None:
    """Note each response to a client by which AWS throttles, also if botocore repeats the request and it succeeds."""
    meta = getattr(client, "meta", None)  # a substitute in a test has none
    if meta is not None:
        meta.events.register("response-received", _note_if_throttled, unique_id="saltctl-throttles")


def _note_if_throttled(parsed_response: Mapping[str, Any] | None, **_: object) -> None:
    if parsed_response and parsed_response.get("Error", {}).get("Code") in _THROTTLES:
        note_throttle()


def to_saltctl_error(exc: Exception, where: str) -> SaltctlError:
    """Convert an exception of botocore. ``where`` names the table or service in the message."""
    import botocore.exceptions as driver

    if isinstance(exc, driver.ClientError):
        return _from_response(exc, error_code(exc), where)
    if isinstance(exc, driver.NoRegionError):
        return ConfigurationError("no AWS Region is configured", hint=NO_REGION_HINT)
    no_profile = isinstance(exc, driver.ProfileNotFound)
    if no_profile or isinstance(exc, driver.NoCredentialsError):
        if files := unreadable_files(missing=no_profile):
            problem = _text(exc) if no_profile else "there may be AWS credentials that cannot be read"
            return ConfigurationError(f"{problem}: {files}", hint="correct the file, or the variable that names it")
        if no_profile:
            return ConfigurationError(_text(exc), hint="aws configure list-profiles")
    if isinstance(exc, CredentialsFailedError):
        return credentials_error(exc, where)
    if isinstance(exc, driver.NoCredentialsError | driver.PartialCredentialsError):
        return AccessDeniedError(f"no usable AWS credentials for {where}: {_text(exc)}", hint=_NO_CREDENTIALS_HINT)
    if isinstance(exc, driver.ConfigParseError):
        return ConfigurationError(f"an AWS configuration file is damaged: {_text(exc)}", hint="correct or remove it")
    if isinstance(exc, driver.HTTPClientError | driver.ConnectionError):
        return _unreachable(exc, where)
    if isinstance(exc, UnreadableResponseError | driver.PaginationError):
        return AwsUnavailableError(f"the response for {where} does not come from AWS", hint=PROXY_HINT)
    if isinstance(exc, driver.ParamValidationError):
        return ConfigurationError(f"AWS would refuse this request for {where}", hint=_NAME_HINT)
    if isinstance(
        exc,
        ValueError
        | driver.InvalidConfigError
        | driver.EndpointProviderError
        | driver.EndpointVariantError
        | driver.InvalidProxiesConfigError
        | driver.MissingDependencyException
        | driver.UnknownSignatureVersionError
        | driver.UnsupportedSignatureVersionError,
    ):
        known = isinstance(exc, driver.InvalidConfigError) and invalid_profile(_text(exc))
        return known or ConfigurationError(f"cannot set up AWS for {where}: {_text(exc)}", hint="saltctl config show")
    return AwsUnavailableError(f"AWS failed for {where}: {type(exc).__name__}: {_text(exc)}", hint="try again")


def setup_error(exc: Exception, service: str) -> SaltctlError:
    """Convert an exception from the creation of a client, which sends nothing: settings or files are not valid."""
    error = to_saltctl_error(exc, service)
    if not isinstance(error, AwsUnavailableError):
        return error
    return ConfigurationError(
        f"cannot set up AWS for {service}: {_text(exc)}",
        hint="check the variables that begin with AWS_, and the AWS configuration files",
    )


def _text(exc: object) -> str:
    """Return a message, or that of an exception, in one line."""
    return " ".join(str(exc).split())[:_LONGEST_MESSAGE]


def _unreachable(exc: Any, where: str) -> SaltctlError:
    """Convert a failed connection. Certificates and TLS settings do not change by a retry."""
    import botocore.exceptions as driver

    if too_many := open_files_problem(exc):
        return AwsUnavailableError(f"no connection to AWS for {where}: {too_many}", hint=OPEN_FILES_HINT)
    if wants_proxy_login(exc):
        return proxy_login_error(where)
    if is_unsendable(exc):
        return AccessDeniedError(f"no usable AWS credentials for {where}: {UNSENDABLE}", hint=_NO_CREDENTIALS_HINT)
    cause = exc.kwargs.get("error", exc)
    proxy = proxy_of(str(exc.kwargs.get("endpoint_url", "")))
    checks = f"check the proxy {mask_url(proxy)} (HTTPS_PROXY, HTTP_PROXY; NO_PROXY excepts hosts)\n" if proxy else ""
    tls = isinstance(exc, driver.SSLError) or "TLS CA" in str(cause)
    if isinstance(cause, FileNotFoundError) or (tls and not _CONNECTION_LOST.search(str(cause))):
        return ConfigurationError(
            f"the TLS settings do not fit AWS for {where}: {_text(exc)}",
            hint=f"{checks}check AWS_CA_BUNDLE, ca_bundle and REQUESTS_CA_BUNDLE (a file of PEM certificates), and "
            "AWS_ENDPOINT_URL: http:// or https://, and a host that the certificate names",
        )
    endpoint = mask_url(str(exc.kwargs.get("endpoint_url") or exc.kwargs.get("proxy_url") or ""))
    hint = f"check the network, AWS_REGION and AWS_ENDPOINT_URL\n{_DOCTOR}"
    if "proxy_url" in exc.kwargs:
        hint = f"check the proxy that HTTPS_PROXY or HTTP_PROXY names; NO_PROXY excepts hosts from it\n{_DOCTOR}"
    elif checks:
        hint = f"{checks}{_DOCTOR}"
    elif match := _REGION_OF_HOST.search(endpoint):
        hint = f"check the network, and whether {match[1]!r} is a Region of AWS (AWS_REGION)\n{_DOCTOR}"
    return AwsUnavailableError(
        f"AWS cannot be reached for {where} ({type(exc).__name__}{' at ' + endpoint if '://' in endpoint else ''})",
        hint=hint,
    )


def _from_response(exc: Any, code: str, where: str) -> SaltctlError:
    if wants_proxy_login(exc):
        return proxy_login_error(where)
    error = exc.response.get("Error", {})
    message = _text(error.get("Message", "")) or "no further message"
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _THROTTLES:
        return ThrottledError(
            f"AWS throttles requests for {where} ({code})",
            hint="wait, or give the table more capacity; then run it again",
        )
    provider = error.get("CredentialsProvider", "")
    if (refusal := refusal_error(code, message, where, provider=provider)) is not None:
        return refusal
    if code in _MISSING:
        hint = "check the names of this request and AWS_REGION\nsaltctl config show"
        return ConfigurationError(f"AWS does not have what was asked of {where} ({code}): {message}", hint=hint)
    if status < 500 and not code.strip("0123456789"):  # botocore takes the status if there is no code
        return AwsUnavailableError(
            f"the response for {where} does not come from AWS: status {code or status}, with no error code of AWS",
            hint=PROXY_HINT,
        )
    if status >= 500 or code in ("InternalServerError", "ServiceUnavailable", "InternalFailure"):
        return AwsUnavailableError(
            f"AWS answered with a server error for {where} ({code})", hint="try again", answered=True
        )
    return AwsUnavailableError(f"AWS answered with {code} for {where}: {message}", hint="try again", answered=True)


NEW_OR_LOST = (
    "a lost backup is recovered; a new registry is set up, which is refused if messages or Redis show one\n"
    "saltctl recover --dry-run\nsaltctl setup"
)
"""The hint if the backup table is missing, or is that of no registry."""


@contextmanager
def aws_errors(where: str, missing: Callable[[], SaltctlError] | None = None) -> Iterator[None]:
    """Convert botocore's errors that are raised inside the block, which sends requests of saltctl's own.

    ``where`` names the table or service; ``missing`` returns the error if the table does not exist.
    """
    import botocore.exceptions as driver

    try:
        with own_requests():
            yield
    except driver.ClientError as exc:
        raise (missing() if missing and error_code(exc) in _MISSING else to_saltctl_error(exc, where)) from exc
    except (driver.BotoCoreError, CredentialsFailedError, UnreadableResponseError) as exc:
        raise to_saltctl_error(exc, where) from exc


def none_if_condition_fails(write: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Send a conditional write; return its response, or None if the condition failed."""
    return _none_if(("ConditionalCheckFailedException",), write)


def none_if_missing(send: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Send a request about something that may be deleted meanwhile; return its response, or None if it was."""
    return _none_if(("ResourceNotFound", "ResourceNotFoundException"), send)


def _none_if(codes: Collection[str], send: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    import botocore.exceptions as driver

    try:
        return send()
    except driver.ClientError as exc:
        if error_code(exc) in codes:
            return None
        raise
