"""Credentials that cannot be had: the cause in one line, and the command that gets them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import RefreshableCredentials  # noqa: TID253
from botocore.exceptions import (  # noqa: TID253  the errors under test
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    InfiniteLoopConfigError,
    InvalidConfigError,
    PartialCredentialsError,
    RefreshWithMFAUnsupportedError,
    SSOTokenLoadError,
    UnauthorizedSSOTokenError,
)

from saltctl.errors import AccessDeniedError, AwsUnavailableError, ConfigurationError
from saltctl.stores.aws.failures.errors import to_saltctl_error
from saltctl.stores.bounded.errors import CredentialsFailedError, MfaRequiredError, UnusableCredentialsError

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


def no_time(text: str) -> Exception:
    """Return the error for a time at which credentials expire."""
    document = {"access_key": "a", "secret_key": "b", "token": "c", "expiry_time": text}
    try:
        RefreshableCredentials.create_from_metadata(document, dict, "custom-process")
    except ValueError as exc:
        return exc
    raise AssertionError(text)


FAILED = CredentialRetrievalError(provider="custom-process", error_msg="password: s3cret")


@pytest.mark.parametrize(
    ("provider", "cause", "words", "hint"),
    [
        ("sso", SSOTokenLoadError(error_msg="Token for s does not exist"), "Token for s", LOGIN),
        ("sso", UnauthorizedSSOTokenError(), "expired", LOGIN),
        ("sso", KeyError("06e45e"), "damaged", LOGIN),
        ("sso", refused("ForbiddenException", 403), "ForbiddenException", f"sso_role_name in .*\n{LOGIN}"),
        ("sso", refused("ResourceNotFoundException", 404), "ResourceNotFoundException", "sso_account_id"),
        ("custom-process", junk(b"hello"), "printed no JSON", "credential_process in profile 'my profile'"),
        ("custom-process", junk(b"\xff"), "printed no UTF-8", "credential_process"),
        ("custom-process", AttributeError("'list' object has no attribute 'get'"), "other JSON", "credential_process"),
        ("custom-process", RuntimeError("the refreshed credentials are still expired"), "have expired", "by hand"),
        ("custom-process", no_time("s3cret"), "Expiration is not a time", "by hand"),
        ("custom-process", TypeError("can't subtract offset-naive datetimes"), "Expiration is not a time", "by hand"),
        ("custom-process", ValueError("No closing quotation"), "a quote or a backslash without an end", "by hand"),
        ("assume-role", no_time("s3cret"), "Expiration is not a time", "aws sts"),
        ("assume-role", FAILED, "credential_process failed", "by hand"),
        ("env", UnusableCredentialsError("the session token holds a blank"), "token holds", "AWS_SESSION_TOKEN"),
        ("config-file", UnusableCredentialsError("the access key id is missing"), "key id is", "'my profile'"),
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
    assert "s3cret" not in error.message
    assert re.search(hint, error.hint)


@pytest.mark.parametrize(
    ("provider", "cause"),
    [
        ("assume-role", refused("InternalServerError", 500)),
        ("assume-role", refused("TooManyRequestsException", 429)),
        ("assume-role-with-web-identity", refused("IDPCommunicationError")),
        ("assume-role-with-web-identity", refused("ThrottlingException")),
        ("assume-role-with-web-identity", ConnectTimeoutError(endpoint_url="https://sts")),
    ],
)
def test_a_provider_without_an_answer_is_an_outage(provider: str, cause: Exception) -> None:
    """A retry may help, or the network is wrong. A token or a role is not."""
    error = to_saltctl_error(CredentialsFailedError(provider, None, cause), "'messages'")
    assert type(error) is AwsUnavailableError
    assert "check the network, AWS_ENDPOINT_URL_STS" in error.hint


@pytest.mark.parametrize(
    ("cause", "hint"),
    [
        (InvalidConfigError(error_msg="The source_profile x does not exist."), "aws configure list-profiles"),
        (InfiniteLoopConfigError(source_profile="x", visited_profiles=["x"]), "aws configure list-profiles"),
        (PartialCredentialsError(provider="assume-role", cred_var="source_profile"), "aws configure list-profiles"),
        (InvalidConfigError(error_msg="The specified sso-session does not exist"), "aws configure sso --profile"),
    ],
)
def test_a_profile_that_cannot_be_used_is_configuration(
    cause: Exception, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the profile and its file."""
    (tmp_path / "config").write_text("")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    error = to_saltctl_error(CredentialsFailedError("assume-role", "my profile", cause), "'messages'")
    assert type(error) is ConfigurationError
    assert f"profile 'my profile' in '{tmp_path}/config' (AWS_CONFIG_FILE)" in error.message
    assert hint in error.hint


def test_what_a_process_prints_is_not_quoted() -> None:
    """Botocore's error has the standard error of the process, which may hold a secret."""
    error = to_saltctl_error(CredentialsFailedError("custom-process", None, FAILED), "'messages'")
    assert "s3cret" not in error.message + error.hint
    assert "credential_process failed" in error.message
