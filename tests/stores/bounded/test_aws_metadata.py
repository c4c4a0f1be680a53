"""The metadata services: what one says that hangs, fails, refuses, or is another server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import AccessDeniedError, AwsUnavailableError, SaltctlError
from saltctl.stores.aws.failures.errors import aws_errors
from saltctl.stores.bounded import aws_connections
from saltctl.stores.bounded.aws_credentials import SharedCredentials
from saltctl.stores.bounded.aws_requests import create_session
from tests.support.slow_servers import SlowServer

Answer = tuple[int, bytes]
ENDPOINT = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
TOKEN, ROLE = "/latest/api/token", "/latest/meta-data/iam/security-credentials/"
KEYS = {"AccessKeyId": "a", "SecretAccessKey": "s", "Token": "t", "Expiration": "2999-01-01T00:00:00Z"}
GOOD = {TOKEN: (200, b"token"), ROLE: (200, b"my-role"), f"{ROLE}my-role": (200, json.dumps(KEYS).encode())}
NO_OTHER = "none in the environment, nor in profile 'default' of the AWS configuration"


@contextmanager
def metadata_service(answers: Callable[[str], Answer | None]) -> Iterator[str]:
    """Answer each path; None waits until the block ends."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        """One request."""

        def do_GET(self) -> None:
            """Answer it."""
            if (answer := answers(self.path)) is None:
                ended.wait()
                return
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        do_PUT = do_GET  # noqa: N815  a name of the base

        def log_message(self, *_: Any) -> None:
            """Print no log."""

    class Server(ThreadingHTTPServer):
        """Its clients may disconnect at any time."""

        daemon_threads, block_on_close = True, False

        def handle_error(self, *_: Any) -> None:
            """Print nothing."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_other_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing else has credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text("[default]\nregion = us-east-1\n")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "config"))


def load(
    url: str, monkeypatch: pytest.MonkeyPatch, variable: str = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
) -> SaltctlError:
    """Return the error of a request for credentials."""
    monkeypatch.setenv(variable, url)
    with pytest.raises(SaltctlError) as caught, aws_errors("'t'"):
        SharedCredentials(create_session(5.0)).get_frozen_credentials()
    assert caught.value.hint
    return caught.value


@pytest.mark.slow
@pytest.mark.parametrize("silent", [(TOKEN, ROLE), (ROLE,), (f"{ROLE}my-role",)])
def test_a_metadata_service_that_hangs_is_an_outage(silent: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """It did not say that there are no credentials. The error names it, and the sources that have none."""
    with metadata_service(lambda path: None if path in silent else GOOD[path]) as url:
        error = load(url, monkeypatch)
    assert type(error) is AwsUnavailableError
    assert f"'iam-role' (EC2's metadata service) did not answer for 't': Read timeout on endpoint URL: \"{url}" in str(
        error
    )
    assert NO_OTHER in error.message


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (TOKEN, (200, b"two words")),
        (TOKEN, (500, b"")),
        (ROLE, (200, b"<html>log in</html>")),
        (ROLE, (200, b"hello, world!")),
        (ROLE, (200, b'{"status": "ok"}')),
        (ROLE, (200, b"")),
        (ROLE, (429, b"slow down")),
        (ROLE, (503, b"")),
        (f"{ROLE}my-role", (200, b"hello")),
        (f"{ROLE}my-role", (200, b"\xff\xfe")),
        (f"{ROLE}my-role", (200, b"")),
    ],
)
def test_another_server_is_no_metadata_service(path: str, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are an outage and throttling statements about credentials."""
    wrong = {path: answer} if path != TOKEN else dict.fromkeys(GOOD, answer)
    with metadata_service(lambda asked: (GOOD | wrong)[asked]) as url:
        error = load(url, monkeypatch)
    assert type(error) is AwsUnavailableError
    assert "(EC2's metadata service) for 't' is not AWS, or fails: it" in error.message
    assert NO_OTHER in error.message


@pytest.mark.parametrize(
    ("token", "role", "words"),
    [
        ((404, b""), (404, b""), "has no role for this instance (404)"),
        ((200, b"token"), (404, b"<html>"), "has no role for this instance (404)"),
        ((403, b"<html>"), (403, b""), "is switched off, or a proxy answers for it (403)"),
        ((400, b""), (404, b""), "refuses the request for a token (400)"),
        ((405, b""), (401, b""), "answers nothing without one (401): containers need a hop limit of 2"),
        ((405, b""), (302, b""), "answered 302"),
    ],
)
def test_a_refusal_names_what_the_service_said(
    token: Answer, role: Answer, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 77: a retry does not help."""
    with metadata_service(lambda path: token if path == TOKEN else role) as url:
        error = load(url, monkeypatch)
    assert type(error) is AccessDeniedError
    assert f"{NO_OTHER}; the metadata service at {url} " in error.message
    assert words in error.message


def test_a_machine_without_a_metadata_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 77: most machines have none. The error says that it was tried, or why not."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    error = load(f"http://127.0.0.1:{port}", monkeypatch)
    assert type(error) is AccessDeniedError
    assert f"{NO_OTHER}; the metadata service at http://127.0.0.1:{port} cannot be reached" in error.message
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    error = load(f"http://127.0.0.1:{port}", monkeypatch)
    assert f"{NO_OTHER}; the metadata service of EC2 is disabled (AWS_EC2_METADATA_DISABLED)" in error.message


@pytest.mark.slow
@pytest.mark.parametrize("answer", [(200, b"hello"), (200, b"\xff"), (429, b""), (503, b"<html>"), None])
def test_a_container_service_that_fails_is_an_outage(answer: Answer | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is another server in its place."""
    with metadata_service(lambda path: answer) as url:
        error = load(f"{url}/keys", monkeypatch, "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    assert type(error) is AwsUnavailableError
    assert "the container's metadata service" in error.message


@pytest.mark.slow
@pytest.mark.parametrize("variable", [ENDPOINT, "AWS_CONTAINER_CREDENTIALS_FULL_URI"])
def test_a_metadata_service_without_an_end_is_an_outage(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its body is read up to a bound: memory does not grow with it."""
    monkeypatch.setattr(aws_connections, "LONGEST_BODY", 1 << 20)
    with SlowServer(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 65536, pause=0.0) as server:
        error = load(f"http://127.0.0.1:{server.port}", monkeypatch, variable)
    assert type(error) is AwsUnavailableError
    assert "its body is longer than 1 MB" in error.message
