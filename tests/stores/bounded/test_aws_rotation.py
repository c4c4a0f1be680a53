"""Credentials that AWS refuses are read anew: long-lived processes outlive a rotation."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.utils import JSONFileCache  # noqa: TID253  the cache of SSO tokens

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
    """A DynamoDB that permits one session token, and refuses others with ``code``.

    It is also the STS, the SSO portal and the metadata service, which hand out ``issued``; STS permits one ``key``.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.code, self.valid = CODES[0], "new"
        self.issued, self.expires, self.key = "old", datetime.now(UTC) + timedelta(hours=1), "k"
        self.tokens: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """Answers each request by its session token."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        """Describe a table, assume a role, or refuse."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body.startswith(b"Action="):
            return self._assume_role()
        token = self.headers["X-Amz-Security-Token"] or ""
        self.server.tokens.append(token)
        if token == self.server.valid:
            return self._answer(200, '{"Table":{"TableName":"t"}}')
        return self._answer(400, f'{{"__type":"x#{self.server.code}"}}')

    def do_GET(self) -> None:
        """Answer as the SSO portal or the container's metadata service does."""
        expires, token = self.server.expires, self.server.issued
        if self.path.startswith("/federation/"):
            keys = {"accessKeyId": "k", "secretAccessKey": "s", "sessionToken": token}
            portal = {"roleCredentials": {**keys, "expiration": int(expires.timestamp()) * 1000}}
            return self._answer(200, json.dumps(portal))
        keys = {"AccessKeyId": "k", "SecretAccessKey": "s", "Token": token, "Expiration": f"{expires:%FT%TZ}"}
        return self._answer(200, json.dumps(keys))

    def _assume_role(self) -> None:
        if f"Credential={self.server.key}/" not in self.headers["Authorization"]:
            refusal = "<Code>InvalidClientTokenId</Code><Message>no</Message>"
            return self._answer(403, f"<ErrorResponse><Error>{refusal}</Error></ErrorResponse>")
        keys = "<AccessKeyId>k</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
        times = (
            f"<SessionToken>{self.server.issued}</SessionToken><Expiration>{self.server.expires:%FT%TZ}</Expiration>"
        )
        found = f"<AssumeRoleResult><Credentials>{keys}{times}</Credentials></AssumeRoleResult>"
        return self._answer(200, f"<AssumeRoleResponse>{found}</AssumeRoleResponse>")

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

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
        self.url = f"http://{host!s}:{port}"
        self.settings = Settings(aws_profile=file.parent.name, aws_region="us-east-1", aws_endpoint_url=self.url)
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


SSO = "sso_start_url = u\nsso_region = us-east-1\nsso_account_id = 111122223333\nsso_role_name = r\n"
ROLE = "role_arn = arn:aws:iam::111122223333:role/x\nsource_profile = base\n"


@pytest.fixture
def configured(rotation: Rotation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replaces the profile by one of a kind, whose credentials the server issues."""
    rotation.file.write_text("")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL_SSO"):
        monkeypatch.setenv(name, rotation.url)

    def configure(kind: str) -> None:
        if kind == "container":
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", rotation.url)
        token = {"accessToken": "a", "expiresAt": "2999-01-01T00:00:00Z"}
        monkeypatch.setattr(JSONFileCache, "__contains__", lambda *_: True)  # its directory is fixed at import
        monkeypatch.setattr(JSONFileCache, "__getitem__", lambda *_: token)
        lines = {"process": f"credential_process = cat {tmp_path / 'printed'}\n", "sso": SSO, "role": ROLE}
        base = "[profile base]\naws_access_key_id = k\naws_secret_access_key = s\n"
        (tmp_path / "config").write_text(f"{base}[profile {tmp_path.name}]\n{lines.get(kind, '')}")

    return configure


KINDS = ("file", "process", "sso", "role", "container")


@pytest.mark.parametrize(("kind", "code"), list(zip(KINDS, CODES, strict=True)))
def test_refused_credentials_are_replaced(
    kind: str, code: str, configured: Callable[[str], None], rotation: Rotation, server: Server, tmp_path: Path
) -> None:
    """A table that is open sends the refused request once more, with a new token of the same key.

    By its provider's account, the refused one would be valid for another hour.
    """
    if kind != "file":
        configured(kind)

    def issue(token: str) -> None:
        server.issued = token
        keys = {"Version": 1, "AccessKeyId": "k", "SecretAccessKey": "s", "SessionToken": token}
        (tmp_path / "printed").write_text(json.dumps({**keys, "Expiration": f"{server.expires:%FT%TZ}"}))
        if kind == "file":
            rotation.write(token)

    server.code, server.valid = code, "old"
    issue("old")
    table = rotation.open()
    assert table.describe()
    issue("new")
    server.valid = "new"
    assert table.describe()
    assert server.tokens == ["old", "old", "new"]


def test_the_keys_of_a_role_are_rotated(
    configured: Callable[[str], None], rotation: Rotation, server: Server, tmp_path: Path
) -> None:
    """Once STS refuses the keys that a role was assumed with, they are read anew, and the role is assumed again."""
    configured("role")
    server.valid = "old"
    server.expires = datetime.now(UTC) + timedelta(seconds=30)  # so that each request refreshes them
    table = rotation.open()
    assert table.describe()
    config = tmp_path / "config"
    config.write_text(config.read_text().replace("= k\n", "= k2\n"))
    server.key = "k2"
    server.issued = server.valid = "new"
    assert table.describe()
    assert server.tokens == ["old", "new"]


def test_those_of_the_environment_cannot_be_renewed(
    rotation: Rotation, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint says so, and the request is not sent again."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rotation.file.parent.name)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    settings = Settings(aws_region="us-east-1", aws_endpoint_url=rotation.url)
    with pytest.raises(AccessDeniedError) as caught:
        Table(settings, "t").describe()
    assert "start the program again" in caught.value.hint
    assert server.tokens == [""]


class Session:
    """What SharedCredentials asks of a session."""


def test_refused_renewals_do_not_storm() -> None:
    """The providers are asked at most once in five seconds, and a thread without a request asks none."""
    from botocore.credentials import ReadOnlyCredentials

    from saltctl.stores.bounded.aws_credentials import SharedCredentials
    from saltctl.stores.bounded.aws_metadata import MetadataNotes

    now, loads = [100.0], [0]

    class Counted(SharedCredentials):
        """Credentials that change with each load."""

        def _find(self, metadata: MetadataNotes) -> object:
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
