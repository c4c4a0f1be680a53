"""Requests that AWS refuses for good: missing permissions, and configuration to change first."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from saltctl.errors import AccessDeniedError, ConfigurationError, SaltctlError

# fmt: off
_DENIED = {
    "AccessDenied", "AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException",
    "ExpiredTokenException", "ExpiredToken", "InvalidClientTokenId", "MissingAuthenticationTokenException",
    "IncompleteSignature", "SignatureDoesNotMatch", "NotAuthorized", "OptInRequired", "RequestExpired",
    "RequestTimeTooSkewed", "SubscriptionRequiredException", "AccountProblem", "AccountSuspended", "AuthFailure",
    "Blocked", "IncompleteSignatureException", "InvalidAccessKeyId", "InvalidSecurity", "MissingAuthenticationToken",
    "NotAuthorizedException", "UnauthorizedException", "UnauthorizedOperation", "InvalidToken", "NotSignedUp",
    "PendingVerification", "RegionDisabledException", "TokenRefreshRequired", "UnauthorizedAccess",
}
# fmt: on
_CLOCK_HINT = "compare this machine's clock with the time (timedatectl), since AWS refuses signatures of another time"
_STATIC_HINT = (
    "set new AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, and start the program again: those of its "
    "environment cannot be renewed"
)
UNSENDABLE = "a token or a key holds a line break, which no request can carry"
RESTORE = "restore this table"
"""What to do about a messages table that is lost: saltctl has no copy of it."""
_KEY_HINT = "enable the table's KMS key again, or restore the table"
_REQUEST_HINT = "check the names and times of this request\nsaltctl config show"
_PERMANENT = {
    "InaccessibleEncryptionCredentialsException": _KEY_HINT,
    "KMSDisabledException": _KEY_HINT,
    "KMSInvalidStateException": _KEY_HINT,
    "KMSNotFoundException": _KEY_HINT,
    "KMSAccessDeniedException": "permit the use of the table's KMS key",
    "ItemCollectionSizeLimitExceededException": "a local secondary index limits a partition to 10 GB: salt it",
    "LimitExceeded": "remove alarms that are not used, or ask AWS for a higher quota",
    **dict.fromkeys(
        (
            *("InvalidParameterValue", "InvalidParameterCombination", "MissingParameter", "InvalidFormat"),
            *("InvalidParameterValueException", "InvalidParameterCombinationException", "SerializationException"),
            *("MissingRequiredParameterException", "UnknownOperationException", "ValidationError"),
            *("InvalidAction", "InvalidQueryParameter", "MalformedQueryString", "MissingAction"),
            *("MalformedHttpRequestException", "RequestEntityTooLargeException", "UnsupportedOperation"),
        ),
        _REQUEST_HINT,
    ),
}
"""Errors that a later attempt meets again, and what to do about each. As outages, cron would retry them for ever."""


def refusal_error(code: str, message: str, where: str, *, provider: str = "") -> SaltctlError | None:
    """Return the error for a request that AWS refuses for good; None if a later attempt may succeed.

    ``provider`` is botocore's name of the provider whose credentials AWS does not accept; else empty.
    """
    if code in _DENIED:
        skewed = code in ("RequestTimeTooSkewed", "RequestExpired") or "Signature expired" in message
        hint = _CLOCK_HINT if skewed else _STATIC_HINT if provider == "env" else "aws sts get-caller-identity"
        return AccessDeniedError(f"AWS does not permit this for {where} ({code}): {message}", hint=hint)
    if code == "ResourceInUseException" and "deleted" in message:
        return _deleting(where, "run it again")
    if code in _PERMANENT:
        return ConfigurationError(f"AWS refuses a request for {where} ({code}): {message}", hint=_PERMANENT[code])
    if code == "ValidationException":
        hint = "write a smaller item" if "Item size" in message else "check its key schema"
        return ConfigurationError(f"DynamoDB refuses a request for {where}: {message}", hint=hint)
    return None


def is_unsendable(exc: BaseException) -> bool:
    """Return whether a header could not be sent, such as a token with a line break. The exception quotes it."""
    error = (getattr(exc, "kwargs", None) or {}).get("error")
    return str(error).startswith("Invalid header value")


def proxy_login_error(where: str) -> AccessDeniedError:
    """Return the error for a proxy that wants another user or password."""
    return AccessDeniedError(
        f"the proxy does not let requests for {where} pass: it wants another user or password (407)",
        hint="put them into HTTPS_PROXY and HTTP_PROXY: http://USER:PASSWORD@HOST:PORT; NO_PROXY excepts hosts",
    )


def _deleting(where: str, then: str) -> ConfigurationError:
    hint = f"aws dynamodb wait table-not-exists --table-name {where}\n{then}"
    return ConfigurationError(f"table {where} is being deleted", hint=hint)


def check_usable(table: Mapping[str, Any], where: str, if_lost: str = RESTORE) -> None:
    """Refuse a table that no retry makes usable; raises ConfigurationError.

    Args:
        table: the ``Table`` of DescribeTable.
        where: names the table in the message.
        if_lost: what to do once it is deleted.
    """
    status = table.get("TableStatus")
    if status == "DELETING":
        raise _deleting(where, if_lost)
    if status in ("ARCHIVING", "ARCHIVED"):
        restored = "" if if_lost == RESTORE else f"\n{if_lost}"
        raise ConfigurationError(
            f"table {where} is {status}: AWS could not use its KMS key for a week",
            hint=f"aws dynamodb list-backups --backup-type ALL --table-name {where}\n"
            f"restore the table from the backup that AWS made of it{restored}",
        )
    if status == "INACCESSIBLE_ENCRYPTION_CREDENTIALS":
        key = dict(table.get("SSEDescription") or {}).get("KMSMasterKeyArn")
        hint = f"aws dynamodb describe-table --table-name {where}\nenable the table's KMS key again"
        if key:
            hint = f"aws kms enable-key --key-id {shlex.quote(str(key))}"
        raise ConfigurationError(f"AWS cannot use the KMS key of table {where} ({status})", hint=hint)
