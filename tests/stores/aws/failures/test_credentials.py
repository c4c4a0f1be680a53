"""Credentials that cannot be had: the cause in one line, and the command that gets them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from botocore.exceptions import (  # noqa: TID253  the errors under test
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    RefreshWithMFAUnsupportedError,
    SSOTokenLoadError,
    UnauthorizedSSOTokenError,
)

from saltctl.errors import AccessDeniedError, AwsUnavailableError
from saltctl.stores.aws.failures.errors import to_saltctl_error
from saltctl.stores.bounded.errors import CredentialsFailedError, MfaRequiredError

LOGIN = "aws sso login --profile 'my profile'"


def refused(code: str, status: int = 400) -> ClientError:
    """Make the refusal of a request for credentials."""
    response: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "GetRoleCredentials")


def junk(text: bytes) -> Exception:
    """Return the error for what a credential_process printed."""
    try:
        json.loads(text.decode())
    except ValueError as exc:
        return exc
    raise AssertionError(text)


@pytest.mark.parametrize(
    ("provider", "cause", "words", "hint"),
    [
        ("sso", SSOTokenLoadError(error_msg="Token for s does not exist"), "Token for s", LOGIN),
        ("sso", UnauthorizedSSOTokenError(), "expired", LOGIN),
        ("sso", KeyError("06e45e"), "damaged", LOGIN),
        ("sso", refused("ForbiddenException", 403), "ForbiddenException", f"sso_role_name in .* then {LOGIN}"),
        ("sso", refused("ResourceNotFoundException", 404), "ResourceNotFoundException", "sso_account_id"),
        ("custom-process", junk(b"hello"), "printed no JSON", "credential_process in profile 'my profile'"),
        ("custom-process", junk(b"\xff"), "printed no UTF-8", "credential_process"),
        ("custom-process", AttributeError("'list' object has no attribute 'get'"), "other JSON", "credential_process"),
        ("custom-process", FileNotFoundError(2, "No such file", "/no/such"), "/no/such", "credential_process"),
        ("custom-process", PermissionError(13, "Permission denied", "/etc/passwd"), "Permission denied", "by hand"),
        ("assume-role-with-web-identity", FileNotFoundError(2, "No such file", "/t"), "/t", "AWS_WEB_IDENTITY"),
        ("assume-role-with-web-identity", refused("InvalidIdentityToken"), "InvalidIdentityToken", "AWS_ROLE_ARN"),
        ("container-role", FileNotFoundError(2, "No such file", "/t"), "/t", "AUTHORIZATION_TOKEN_FILE"),
        ("assume-role", refused("AccessDenied", 403), "AccessDenied", "aws sts get-caller-identity --profile"),
        ("assume-role", MfaRequiredError("it needs an MFA code"), "MFA", "aws configure export-credentials"),
        ("assume-role", RefreshWithMFAUnsupportedError(), "MFA", "aws configure export-credentials"),
        ("", RecursionError("maximum recursion depth exceeded"), "recursion", "get-caller-identity"),
        ("env", EOFError(), "EOFError", "get-caller-identity"),
        ("env", RuntimeError("two\nlines"), "two lines", "get-caller-identity"),
    ],
)
def test_a_provider_that_fails_is_a_missing_permission(provider: str, cause: Exception, words: str, hint: str) -> None:
    """Whatever a provider raises: exit 77, never an internal error, an outage, or a missing table."""
    error = to_saltctl_error(CredentialsFailedError(provider, "my profile", cause), "'messages'")
    assert type(error) is AccessDeniedError
    assert words in error.message
    assert "\n" not in error.message
    assert re.search(hint, error.hint)


@pytest.mark.parametrize(
    "cause",
    [
        refused("InternalServerError", 500),
        refused("TooManyRequestsException", 429),
        refused("ThrottlingException"),
        ConnectTimeoutError(endpoint_url="https://sts"),
    ],
)
def test_a_provider_without_an_answer_is_an_outage(cause: Exception) -> None:
    """A retry may help."""
    error = to_saltctl_error(CredentialsFailedError("assume-role", None, cause), "'messages'")
    assert type(error) is AwsUnavailableError


def test_what_a_process_prints_is_not_quoted() -> None:
    """Botocore's error has the standard error of the process, which may hold a secret."""
    cause = CredentialRetrievalError(provider="custom-process", error_msg="password: s3cret")
    error = to_saltctl_error(CredentialsFailedError("custom-process", None, cause), "'messages'")
    assert "s3cret" not in error.message + error.hint
    assert "credential_process failed" in error.message
