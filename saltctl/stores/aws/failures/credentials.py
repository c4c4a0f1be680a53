"""Credentials that cannot be had: the cause, and the command that gets them.

botocore's providers raise whatever their files, processes and servers cause: also KeyError, AttributeError and OSError.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from saltctl.errors import AccessDeniedError, AwsUnavailableError, SaltctlError
from saltctl.stores.bounded.errors import CredentialsFailedError, MfaRequiredError, UnreadableResponseError

_SSO = ("sso", "sso-token")
_PROCESS = "custom-process"
_LONGEST_CAUSE = 200
_PAGE_HINT = (
    "is there a proxy or a captive portal in between? check HTTPS_PROXY, HTTP_PROXY and NO_PROXY; then try again"
)
_HINTS = {
    _PROCESS: "run the command of credential_process in {files} by hand, and correct it",
    "assume-role-with-web-identity": "check AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, or the same keys in {files}",
    "container-role": "check AWS_CONTAINER_CREDENTIALS_FULL_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
}


def credentials_error(exc: CredentialsFailedError, where: str) -> SaltctlError:
    """Return the error for a provider of credentials that failed. ``where`` names the table or service.

    AwsUnavailableError, if the provider's server does not answer, reports an outage or is not AWS, as a proxy; else
    AccessDeniedError.
    """
    import botocore.exceptions as driver

    cause, provider = exc.cause, exc.provider
    if isinstance(cause, driver.RefreshWithMFAUnsupportedError):  # at the second attempt
        cause = exc.cause = MfaRequiredError(*cause.args)
    refused = isinstance(cause, driver.ClientError)
    hint = _hint(exc, refused=refused)
    named = f"the provider {provider!r}" if provider else "the chain of providers"
    if isinstance(cause, UnreadableResponseError) or (refused and _error_code(cause).strip("0123456789") == ""):
        return AwsUnavailableError(
            f"AWS credentials: the server of {named} for {where} is not AWS, or fails: {_text(cause)}", hint=_PAGE_HINT
        )
    if isinstance(cause, driver.HTTPClientError | driver.ConnectionError) or (refused and _is_outage(cause)):
        return AwsUnavailableError(f"AWS credentials: {named} cannot be reached for {where}: {_text(cause)}", hint=hint)
    return AccessDeniedError(f"no AWS credentials for {where}: {named} failed: {_cause(provider, cause)}", hint=hint)


def _is_outage(cause: BaseException) -> bool:
    status = int(getattr(cause, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return status >= 500 or status == 429 or "Throttl" in _error_code(cause)


def _error_code(cause: BaseException) -> str:
    """Return the service's error code. A proxy's response has none, for which botocore takes the status."""
    return str(getattr(cause, "response", {}).get("Error", {}).get("Code", ""))


def _hint(exc: CredentialsFailedError, *, refused: bool) -> str:
    profile = f" --profile {shlex.quote(exc.profile)}" if exc.profile else ""
    files = f"profile {exc.profile!r} of the AWS configuration" if exc.profile else "the AWS configuration"
    if isinstance(exc.cause, MfaRequiredError):
        return f'eval "$(aws configure export-credentials{profile} --format env)"'
    if exc.provider in _SSO or "SSO" in type(exc.cause).__name__:
        login = f"aws sso login{profile}"
        return f"check sso_account_id and sso_role_name in {files}; then {login}" if refused else login
    return _HINTS.get(exc.provider, f"aws sts get-caller-identity{profile}").format(files=files)


def _cause(provider: str, cause: BaseException) -> str:
    """Return the cause in one line. What a process prints may hold secrets, so it is not quoted."""
    import botocore.exceptions as driver

    if provider == _PROCESS and not isinstance(cause, OSError):
        kind = {json.JSONDecodeError: "no JSON", UnicodeDecodeError: "no UTF-8"}.get(type(cause), "other JSON")
        failed = isinstance(cause, driver.CredentialRetrievalError)
        return (
            "credential_process failed, or printed incomplete credentials"
            if failed
            else f"credential_process printed {kind}"
        )
    if provider in _SSO and isinstance(cause, KeyError | ValueError | TypeError | AttributeError):
        return f"the cached token is damaged ({type(cause).__name__})"
    return _text(cause)


def _text(cause: BaseException) -> str:
    text = " ".join(str(cause).split())[:_LONGEST_CAUSE]
    return text if " " in text else f"{type(cause).__name__} {text}".rstrip()


def unreadable_files(*, missing: bool) -> str:
    """Return which AWS configuration files cannot be read; empty if none.

    ``missing``: include files that a variable names and that do not exist. Devices such as /dev/null count as empty.
    """
    found = []
    for variable, default in (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")):
        named = variable in os.environ
        path = Path(os.path.expanduser(os.environ.get(variable) or f"~/.aws/{default}"))  # noqa: PTH111  without HOME
        exists = path.exists()
        unreadable = path.is_dir() or not os.access(path, os.R_OK)
        if (exists and unreadable) or (missing and named and not exists):
            found.append(f"{str(path)!r}{f' ({variable})' if named else ''} is not a file that can be read")
    return "; ".join(found)
