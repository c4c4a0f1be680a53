"""botocore's exceptions get the right name: configuration, outage, or permission, with their message in one line."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (  # noqa: TID253  the errors under test
    BotoCoreError,
    ConfigParseError,
    ConnectTimeoutError,
    EndpointConnectionError,
    EndpointProviderError,
    HTTPClientError,
    InvalidRegionError,
    MissingDependencyException,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    UnknownServiceError,
    UnknownSignatureVersionError,
)

from saltctl.errors import ConfigurationError
from saltctl.settings import load_settings
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.failures.errors import setup_error, to_saltctl_error

NOT_TRUSTED = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")


class OddError(BotoCoreError):
    """An exception of a later botocore."""

    fmt = "the {thing}\nis odd"


@pytest.mark.parametrize(
    ("exc", "code", "words"),
    [
        (NoCredentialsError(), 77, "Unable to locate credentials"),
        (PartialCredentialsError(provider="env", cred_var="aws_secret_access_key"), 77, "aws_secret_access_key"),
        (ConfigParseError(path="/home/x/.aws/config"), 78, "/home/x/.aws/config"),
        (SSLError(endpoint_url="https://x", error=NOT_TRUSTED), 78, "TLS"),
        (SSLError(endpoint_url="https://x", error=ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong")), 78, "TLS"),
        (SSLError(endpoint_url="https://x", error=ssl.SSLError(1, "[X509] no certificate or crl found")), 78, "found"),
        (
            SSLError(endpoint_url="https://x", error=ValueError("hostname 'x' doesn't match 'y'")),
            78,
            "doesn't match 'y'",
        ),
        (SSLError(endpoint_url="https://x", error=OSError("Could not find a suitable TLS CA: /x")), 78, "/x"),
        (
            SSLError(endpoint_url="https://x", error=ssl.SSLError(1, "[SSL] tlsv13 alert certificate required")),
            78,
            "TLS",
        ),
        (SSLError(endpoint_url="https://x", error=ssl.SSLEOFError(8, "[SSL: UNEXPECTED_EOF]")), 69, "be reached"),
        (SSLError(endpoint_url="https://x", error=TimeoutError("The handshake timed out")), 69, "be reached"),
        (
            SSLError(endpoint_url="https://x", error=ssl.SSLError(1, "[SSL] sslv3 alert bad record mac")),
            69,
            "be reached",
        ),
        (HTTPClientError(error=FileNotFoundError(2, "No such file", "/no/ca.pem")), 78, "/no/ca.pem"),
        (EndpointConnectionError(endpoint_url="https://x"), 69, "cannot be reached"),
        (UnknownSignatureVersionError(signature_version="v99"), 78, "v99"),
        (MissingDependencyException(msg="Using CRT"), 78, "Using CRT"),
        (EndpointProviderError(msg="FIPS and custom endpoint are not supported"), 78, "FIPS"),
        (OddError(thing="new one"), 69, "OddError: the new one is odd"),
    ],
)
def test_an_exception_has_its_exit_code(exc: Exception, code: int, words: str) -> None:
    """And its message."""
    error = to_saltctl_error(exc, "'messages'")
    assert error.exit_code == code
    assert words in error.message
    assert error.hint


@pytest.mark.parametrize(
    "exc", [InvalidRegionError(region_name="x y"), UnknownServiceError(service_name="x", known_service_names="y")]
)
def test_creating_a_client_fails_by_configuration(exc: Exception) -> None:
    """It sends nothing, so a retry does not help."""
    error = setup_error(exc, "dynamodb")
    assert error.exit_code == 78
    assert error.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:99999"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "odd"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[::1"),
        ("AWS_DEFAULTS_MODE", "odd"),
        ("AWS_ACCOUNT_ID_ENDPOINT_MODE", "odd"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "odd"),
        ("AWS_MAX_ATTEMPTS", "-3"),
        ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "odd"),
        ("AWS_METADATA_SERVICE_TIMEOUT", "odd"),
        ("AWS_RETRY_MODE", "odd"),
        ("AWS_STS_REGIONAL_ENDPOINTS", "odd"),
        ("AWS_USE_FIPS_ENDPOINT", "maybe"),
    ],
)
def test_a_variable_that_is_not_valid(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 78 with its name, also if botocore would ignore it or read it later."""
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_REGION", f"eu-{name.lower().replace('_', '-')}")  # sessions are kept by Region
    with pytest.raises(ConfigurationError, match=f"^{name} is "):
        create_client(load_settings(), "dynamodb")


@pytest.mark.parametrize(
    ("names", "value", "words"),
    [
        (("AWS_REGION", "AWS_DEFAULT_REGION"), "", r"Region is empty \(AWS_REGION, AWS_DEFAULT_REGION\)"),
        (("AWS_CA_BUNDLE",), "", "^AWS_CA_BUNDLE is ''"),
        (("AWS_CA_BUNDLE",), "/no/ca.pem", "^AWS_CA_BUNDLE is '/no/ca.pem'"),
        (("REQUESTS_CA_BUNDLE",), "/", "^REQUESTS_CA_BUNDLE is '/'"),
        (("AWS_CONFIG_FILE",), "ca_bundle = /no/ca.pem", "^ca_bundle in the AWS configuration is '/no/ca.pem'"),
        (("AWS_CONFIG_FILE",), "region =", "Region is empty .*region in '.*config' "),
    ],
)
@pytest.mark.parametrize("endpoint", ["https://127.0.0.1:1", ""])
def test_an_empty_variable_or_a_missing_file_is_named(
    names: tuple[str, ...], value: str, words: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an endpoint URL, too. Botocore names neither, or asks a host without a name."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    if "region" not in words.lower():
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_PROFILE", tmp_path.name)  # sessions are kept by profile
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    setting = value if names == ("AWS_CONFIG_FILE",) else ""
    (tmp_path / "config").write_text(f"[profile {tmp_path.name}]\noutput = json\n{setting}\n")
    for name in names:
        if not setting:
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=words):
        create_client(load_settings(), "dynamodb")


@pytest.mark.parametrize("exc", [ProfileNotFound(profile="p"), NoCredentialsError()])
def test_a_file_that_cannot_be_read_is_named(exc: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Botocore takes it for one that does not exist."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path))
    (tmp_path / "credentials").write_text("")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    error = to_saltctl_error(exc, "'messages'")
    assert (error.exit_code, f"{str(tmp_path)!r} (AWS_CONFIG_FILE)" in error.message) == (78, True)
    assert "credentials'" not in error.message


def test_credentials_of_an_application_that_cannot_be_sent_are_not_quoted() -> None:
    """Its own client does not check them. Exit 77, and not an outage."""
    cause = ValueError("Invalid header value b'AWS4-HMAC-SHA256 s3cret\\n'")
    error = to_saltctl_error(HTTPClientError(error=cause), "'messages'")
    assert error.exit_code == 77
    assert "s3cret" not in error.message + error.hint


@pytest.mark.parametrize(
    ("exc", "hint"),
    [
        (EndpointConnectionError(endpoint_url="https://dynamodb.eu-nowhere-1.amazonaws.com/"), "'eu-nowhere-1'"),
        (ProxyConnectionError(proxy_url="http://u:s3cret@127.0.0.1:1", error=OSError("refused")), "HTTPS_PROXY"),
    ],
)
def test_a_failed_connection_names_its_setting(exc: Exception, hint: str) -> None:
    """The Region of a host that may not exist, and the variable of a proxy, whose password is masked."""
    error = to_saltctl_error(exc, "'messages'")
    assert error.exit_code == 69
    assert hint in error.hint
    assert "s3cret" not in error.message + error.hint


@pytest.mark.parametrize(
    ("cause", "code"),
    [(ReadTimeoutError, 69), (SSLError, 78), (EndpointConnectionError, 69), (ConnectTimeoutError, 69)],
)
def test_a_failure_behind_a_proxy_names_the_proxy(cause: Any, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as likely as AWS to hang, or to answer with something else than TLS."""
    monkeypatch.setenv("HTTPS_PROXY", "u:s3cret@proxy.example:3128")
    error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong")
    for host, named in (("dynamodb.eu-west-1.amazonaws.com", True), ("127.0.0.1", False)):
        failed = to_saltctl_error(cause(endpoint_url=f"https://{host}/", error=error), "'messages'")
        assert (failed.exit_code, "@proxy.example:3128 (HTTPS_PROXY" in failed.hint) == (code, named)
        assert "s3cret" not in failed.message + failed.hint
