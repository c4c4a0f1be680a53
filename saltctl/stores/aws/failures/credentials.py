"""Credentials that cannot be had: the cause, and the command that gets them.

botocore's providers raise whatever their files, processes and servers cause: also KeyError, AttributeError and OSError.
"""

from __future__ import annotations

import re
import shlex

from saltctl.errors import AccessDeniedError, AwsUnavailableError, SaltctlError
from saltctl.stores.aws.failures.configuration import invalid_profile
from saltctl.stores.aws.failures.refusals import UNSENDABLE, is_unsendable, proxy_login_error
from saltctl.stores.bounded.errors import (
    CredentialsFailedError,
    MfaRequiredError,
    UnreadableResponseError,
    UnusableCredentialsError,
    network_hint,
    wants_proxy_login,
)

_SSO = ("sso", "sso-token")
_PROCESS = "custom-process"
_SERVERS = {"iam-role": " (EC2's metadata service)", "container-role": " (the container's metadata service)"}
_KEY_FILES = "correct the keys of {files}\naws sts get-caller-identity"
_PARAMETER = re.compile(r"parameter (\w+)")
_LONGEST_CAUSE = 300
_PAGE_HINT = (
    "is there a proxy or a captive portal in between? check HTTPS_PROXY, HTTP_PROXY and NO_PROXY; then try again"
)
_EXPIRATION = "its Expiration is not a time with a time zone"
_DAMAGED = {"ParserError": _EXPIRATION, "OverflowError": _EXPIRATION, "TypeError": _EXPIRATION}
_PRINTED = {
    "JSONDecodeError": "credential_process printed no JSON",
    "UnicodeDecodeError": "credential_process printed no UTF-8",
    "CredentialRetrievalError": "credential_process failed, or printed another Version than 1",
    "RuntimeError": "the credentials that credential_process printed have expired",
    **_DAMAGED,
}
"""Causes by the name of botocore's exception. What a process prints may hold secrets, so it is not quoted."""
_HINTS = {
    "env": "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_CREDENTIAL_EXPIRATION\n"
    "aws sts get-caller-identity",
    "config-file": _KEY_FILES,
    "shared-credentials-file": _KEY_FILES,
    _PROCESS: "run the command of credential_process in {files} by hand, and correct it",
    "assume-role-with-web-identity": "check AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, or the same keys in {files}",
    "iam-role": "check the role of this instance, and who may assume it\naws sts get-caller-identity",
    "container-role": "check AWS_CONTAINER_CREDENTIALS_FULL_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
}


def credentials_error(exc: CredentialsFailedError, where: str) -> SaltctlError:
    """Return the error for a provider of credentials that failed. ``where`` names the table or service.

    AwsUnavailableError, if the provider's server does not answer, reports an outage or is not AWS, as a proxy;
    ConfigurationError, if a profile cannot be used; else AccessDeniedError.
    """
    import botocore.exceptions as driver

    if isinstance(exc.cause, driver.CredentialRetrievalError) and exc.cause.kwargs.get("provider") == _PROCESS:
        exc.provider = _PROCESS  # that of a source profile
    cause, provider = exc.cause, exc.provider
    if isinstance(cause, driver.RefreshWithMFAUnsupportedError):  # at the second attempt
        cause = exc.cause = MfaRequiredError(*cause.args)
    no_source = isinstance(cause, driver.PartialCredentialsError) and provider == "assume-role"
    if isinstance(cause, driver.InvalidConfigError) or no_source:
        return invalid_profile(_text(cause), exc.profile or "default")
    if wants_proxy_login(cause):
        return proxy_login_error(f"the credentials for {where}")
    refused = isinstance(cause, driver.ClientError)
    hint = _hint(exc, refused=refused)
    named = f"the provider {provider!r}{_SERVERS.get(provider, '')}" if provider else "the chain of providers"
    elsewhere = f"; {exc.places}" if exc.places else ""
    if isinstance(cause, UnreadableResponseError) or (refused and _error_code(cause).strip("0123456789") == ""):
        return AwsUnavailableError(
            f"AWS credentials: the server of {named} for {where} is not AWS, or fails: {_text(cause)}{elsewhere}",
            hint=_PAGE_HINT,
        )
    if is_unsendable(cause):
        return AccessDeniedError(f"no AWS credentials for {where}: {named} failed: {UNSENDABLE}", hint=hint)
    if isinstance(cause, driver.HTTPClientError | driver.ConnectionError) or (refused and _is_outage(cause)):
        verb = "did not answer" if isinstance(cause, driver.ReadTimeoutError) else "cannot be reached"
        return AwsUnavailableError(
            f"AWS credentials: {named} {verb} for {where}: {_text(cause)}{elsewhere}", hint=network_hint(provider)
        )
    return AccessDeniedError(f"no AWS credentials for {where}: {named} failed: {_cause(provider, cause)}", hint=hint)


def _is_outage(cause: BaseException) -> bool:
    status = int(getattr(cause, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = _error_code(cause)
    return status >= 500 or status == 429 or "Throttl" in code or code in ("IDPCommunicationError", "SlowDownException")


def _error_code(cause: BaseException) -> str:
    """Return the service's error code. A proxy's response has none, for which botocore takes the status."""
    return str(getattr(cause, "response", {}).get("Error", {}).get("Code", ""))


def _hint(exc: CredentialsFailedError, *, refused: bool) -> str:
    profile = f" --profile {shlex.quote(exc.profile)}" if exc.profile else ""
    files = f"profile {exc.profile or 'default'!r} of the AWS configuration"
    if isinstance(exc.cause, MfaRequiredError):
        return f'eval "$(aws configure export-credentials{profile} --format env)"'
    if exc.provider in _SSO or "SSO" in type(exc.cause).__name__:
        login = f"aws sso login{profile}"
        return f"check sso_account_id and sso_role_name in {files}\n{login}" if refused else login
    return _HINTS.get(exc.provider, f"aws sts get-caller-identity{profile}").format(files=files)


def _cause(provider: str, cause: BaseException) -> str:
    """Return the cause in one line. botocore quotes parameters, such as a token of another type."""
    if type(cause).__name__ == "ParamValidationError":
        names = dict.fromkeys(_PARAMETER.findall(str(cause)))
        return f"the parameter {', '.join(names) or 'of a request'} is not valid"
    if isinstance(cause, UnusableCredentialsError | OSError):
        return _text(cause)
    if provider == _PROCESS:
        if "No closing quotation" in str(cause) or "No escaped character" in str(cause):
            return "the command of credential_process has a quote or a backslash without an end"
        return _PRINTED.get(type(cause).__name__, "credential_process printed other JSON")
    if provider in (*_SSO, "login") and isinstance(cause, KeyError | ValueError | TypeError | AttributeError):
        return f"the cached token is damaged ({type(cause).__name__})"
    return _DAMAGED.get(type(cause).__name__) or _text(cause)


def _text(cause: BaseException) -> str:
    text = " ".join(str(cause).split())[:_LONGEST_CAUSE]
    return text if " " in text else f"{type(cause).__name__} {text}".rstrip()
