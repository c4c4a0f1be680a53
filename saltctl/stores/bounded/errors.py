"""Failures that botocore has no exceptions for. stores/aws/failures/ converts them to saltctl's errors."""

from __future__ import annotations

import errno

PROXY_HINT = (
    "is there a proxy in between? check HTTPS_PROXY, HTTP_PROXY, NO_PROXY and AWS_ENDPOINT_URL\nsaltctl config show"
)
NO_REGION_HINT = "set AWS_REGION, such as eu-central-1, or region in the AWS profile\naws configure list"
OPEN_FILES_HINT = "raise the limit of open files, which `ulimit -n` shows, or use fewer --segments"


def open_files_problem(exc: BaseException | None) -> str | None:
    """Return the system's message if too many open files caused the exception; None if something else did."""
    seen: set[int] = set()  # botocore's chains may be circles
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
            return (exc.strerror or "Too many open files").lower()
        exc = exc.__cause__ or exc.__context__
    return None


def wants_proxy_login(exc: BaseException) -> bool:
    """Return whether an exception of botocore says that a proxy wants another user or password (407)."""
    response, kwargs = (getattr(exc, name, None) or {} for name in ("response", "kwargs"))
    error = response.get("Error", {}).get("Code") or kwargs.get("error")
    return str(error) == "407" or "Tunnel connection failed: 407" in str(error)


class UnreadableResponseError(Exception):
    """A response of another shape or size than AWS sends, for example from a proxy."""


class OversizedResponseError(UnreadableResponseError):
    """A response has a body that is too long to be read. It is not asked for again."""


class MfaRequiredError(Exception):
    """A role wants a code of multi-factor authentication, which takes longer to type than a time budget."""


class UnusableCredentialsError(Exception):
    """A provider returned credentials, or a document, that no request can be signed with. It quotes none of them."""


class CredentialsFailedError(Exception):
    """A provider of credentials failed.

    Args:
        provider: botocore's name of the provider, such as ``sso``; empty if it is not known.
        profile: the profile in use; None if none was chosen.
        cause: any exception.
        places: which other sources have none, in words.
    """

    def __init__(self, provider: str, profile: str | None, cause: Exception, places: str = "") -> None:
        super().__init__(f"{provider}: {type(cause).__name__}")
        self.provider = provider
        self.profile = profile
        self.cause = cause
        self.places = places


_ENDPOINTS = {
    "container-role": "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "iam-role": "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "sso": "AWS_ENDPOINT_URL_SSO, sso_region",
    "assume-role": "AWS_ENDPOINT_URL_STS, AWS_REGION",
    "assume-role-with-web-identity": "AWS_ENDPOINT_URL_STS, AWS_REGION",
}


def network_hint(provider: str) -> str:
    """Return the hint for a provider of credentials, by botocore's name, whose server does not answer."""
    if provider == "custom-process":
        return "run the command of credential_process by hand: it must print credentials in time, and ask nothing"
    endpoint = _ENDPOINTS.get(provider, "AWS_ENDPOINT_URL")
    return f"check the network, {endpoint}, and the proxy that HTTPS_PROXY or HTTP_PROXY names"
