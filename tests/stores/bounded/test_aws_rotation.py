"""Credentials that AWS refuses are read anew: long-lived processes outlive a rotation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from saltctl.errors import AccessDeniedError
from saltctl.settings import Settings
from saltctl.stores.aws.table import Table

CODES = (
    "ExpiredToken",
    "ExpiredTokenException",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "InvalidClientTokenId",
)

pytestmark = pytest.mark.slow


class Server(ThreadingHTTPServer):
    """A DynamoDB that permits one session token, and refuses others with ``code``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.code, self.valid = CODES[0], "new"
        self.tokens: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """Answers each request by its session token."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        """Describe a table, or refuse."""
        self.rfile.read(int(self.headers["Content-Length"]))
        token = self.headers["X-Amz-Security-Token"] or ""
        self.server.tokens.append(token)
        valid = token == self.server.valid
        body = b'{"Table":{"TableName":"t"}}' if valid else b'{"__type":"x#%s"}' % self.server.code.encode()
        self.send_response(200 if valid else 400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """The server, which is stopped at the end."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class Rotation:
    """The credentials file of a test, and tables that use it."""

    def __init__(self, file: Path, server: Server) -> None:
        self.file = file
        # A profile of its own gives each test sessions of its own.
        host, port = server.server_address[:2]
        self.settings = Settings(
            aws_profile=file.parent.name, aws_region="us-east-1", aws_endpoint_url=f"http://{host!s}:{port}"
        )
        self.write("old")

    def write(self, token: str) -> None:
        """Replace the session token, not the key id."""
        lines = f"[{self.file.parent.name}]", "aws_access_key_id=k", "aws_secret_access_key=s", ""
        self.file.write_text("\n".join(lines) + f"aws_session_token={token}\n")

    def open(self) -> Table:
        """Open a table."""
        return Table(self.settings, "t")


@pytest.fixture
def rotation(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Rotation:
    """Credentials that are in a file alone."""
    file = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    return Rotation(file, server)


@pytest.mark.parametrize("code", CODES)
def test_a_rotated_file_is_read_anew(rotation: Rotation, server: Server, code: str) -> None:
    """A table that is open sends the refused request once more, with the new token of the same key."""
    server.code, server.valid = code, "old"
    table = rotation.open()
    assert table.describe()
    rotation.write("new")
    server.valid = "new"
    assert table.describe()
    assert server.tokens == ["old", "old", "new"]


def test_a_table_that_is_opened_anew_never_uses_refused_credentials(rotation: Rotation, server: Server) -> None:
    """Credentials that were refused a moment ago, and have been rotated since, are not sent by a new client."""
    with pytest.raises(AccessDeniedError):
        rotation.open().describe()
    assert server.tokens == ["old"]  # the same ones again are not sent twice
    rotation.write("new")
    assert rotation.open().describe()
    assert server.tokens == ["old", "new"]


def test_new_credentials_that_are_refused_as_well(rotation: Rotation, server: Server) -> None:
    """The request is sent once more only, and a table that is opened anew uses neither of the refused ones."""
    server.valid = "old"
    table = rotation.open()
    assert table.describe()
    server.valid = "newest"
    rotation.write("new")
    with pytest.raises(AccessDeniedError):
        table.describe()
    rotation.write("newest")
    assert rotation.open().describe()
    assert server.tokens == ["old", "old", "new", "newest"]


def test_threads_renew_together(rotation: Rotation, server: Server) -> None:
    """Threads whose requests are refused at the same time send each one more request."""
    server.valid = "old"
    table = rotation.open()
    assert table.describe()
    server.valid = "new"
    rotation.write("new")
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: table.describe(), range(8)))
    assert server.tokens.count("new") == 8


class Session:
    """What SharedCredentials asks of a session."""


def test_refused_renewals_do_not_storm() -> None:
    """The providers are asked at most once in five seconds, and a thread without a request asks none."""
    from botocore.credentials import ReadOnlyCredentials

    from saltctl.stores.bounded.aws_credentials import SharedCredentials

    now, loads = [100.0], [0]

    class Counted(SharedCredentials):
        """Credentials that change with each load."""

        def _find(self) -> object:
            loads[0] += 1
            number = loads[0]

            class Source:
                """One provider's credentials."""

                method = "test"

                def get_frozen_credentials(self) -> ReadOnlyCredentials:
                    """Return the credentials of this load."""
                    return ReadOnlyCredentials(f"key-{number}", "s", None)

            return Source()

    credentials = Counted(Session(), lambda: now[0])
    credentials.begin_call()
    assert not credentials.renew()
    assert credentials.access_key == "key-1"
    assert credentials.renew()
    assert credentials.access_key == "key-2"
    for _ in range(10):
        assert not credentials.renew()
        assert credentials.refused
    assert loads == [2]
    now[0] += 5.0
    assert credentials.renew()
    assert (loads, credentials.access_key) == ([3], "key-3")
    assert not credentials.refused
