"""Secrets that servers and drivers quote in their errors are masked, and nothing else is."""

from __future__ import annotations

import json

import pytest

from saltctl.errors import ConfigurationError
from saltctl.masking import without_secrets

SECRET = "IQoJb3JpZ2luX2VjEJr" + "a1B2+/" * 20 + "=="
SHORT = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"


@pytest.mark.parametrize("secret", [SECRET, SHORT])
@pytest.mark.parametrize(
    "text",
    [
        "The Canonical String should have been 'POST\n/\n\nhost:x\nx-amz-security-token:{}\n\nhost;x'",
        "{{'X-Amz-Security-Token': b'{}', 'Host': 'x'}}",
        "{{'Authorization': b'AWS4-HMAC-SHA256 Credential=AKIA/x, SignedHeaders=host, Signature={}'}}",
        "Authorization: Bearer {}\r\nHost: x",
        "authorization: {}",
        "GET /?X-Amz-Signature={}&Action=connect",
        "Max retries exceeded with url: /?Action=connect&X-Amz-Security-Token={}&User=x",
        '{{"roleCredentials": {{"secretAccessKey": "{}", "sessionToken": "{}"}}}}',
        '{{"AccessKeyId": "A", "SecretAccessKey": "{}", "Token": "{}", "Expiration": "x"}}',
        "{{'accessToken': '{}', 'refreshToken': '{}', 'clientSecret': '{}'}}",
        "<Credentials><SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken></Credentials>",
        "aws_secret_access_key = {}\naws_session_token={}",
        "x-amz-sso_bearer_token: {}",
        "Action=AssumeRoleWithWebIdentity&WebIdentityToken={}&Version=1",
        "ConnectionPool(username='x', password='{}', db=0)",
        "/etc/passwd: {}",
        "PUT /password={} HTTP/1.1",
        "password: not{} 'passwd': 'permission{}' password: '{}: not usable'",
    ],
)
def test_named_secrets_are_masked(text: str, secret: str) -> None:
    """Headers, bodies of STS and SSO, files, queries, canonical requests, reprs; also within saltctl's own errors."""
    quoted = text.format(*[secret] * 3)
    masked = without_secrets(quoted)
    assert secret not in masked
    assert "***" in masked
    assert secret not in str(ConfigurationError(quoted))
    assert secret not in ConfigurationError(quoted).message


@pytest.mark.parametrize(
    "text",
    [
        "The security token included in the request is expired",
        "Signature expired: 20261126T000000Z is now earlier than 20261126T001500Z",
        "redis_password_file '/etc/x' cannot be read: No such file or directory",
        "ssl_ca_certs=/etc/passwd: not usable",
        "/run/secrets/password: Permission denied; try: ls",
        "cannot write '/tmp/passwd': [Errno 2] No such file or directory: '/tmp/passwd'",
        "cannot read '/tmp/passwd': No such file or directory",
        "cannot write the plan '/tmp/passwd': it must be a regular file in a writable directory",
        json.dumps({"conversation_id": "token", "max_n": 4}),
        "SSOTokenLoadError: Error loading SSO Token: Token for x does not exist",
    ],
)
def test_other_texts_stay(text: str) -> None:
    """Words for secrets are no secrets."""
    assert without_secrets(text) == text


def test_values_of_variables_are_masked_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names around them do not matter; the dummy values of the local environment are no secrets."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token-that-nobody-names")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    assert without_secrets("refused <a-token-that-nobody-names> in local") == "refused <***> in local"
