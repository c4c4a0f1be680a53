"""IAM authentication: the server checks each token by itself, and closes connections after twelve hours."""

from __future__ import annotations

import hashlib
import hmac
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest

from saltctl.errors import AccessDeniedError, ConfigurationError
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis_iam import IAM_AGE
from saltctl.testing import MemoryBackup
from tests.support.redis_stub import Command, RedisStub
from tests.support.tls import create_authority, start_front

pytestmark = pytest.mark.slow

SECRET = "a-secret/key"  # noqa: S105  of this test
FOUND = b"*1\r\n$1\r\n4\r\n"
REFUSED = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"


class IamServer:
    """Decides who may log in, as ElastiCache does. ``ahead`` moves its clock."""

    def __init__(self, service: str = "elasticache", resource: str | None = None) -> None:
        self.service = service
        self.resource = resource
        self.ahead = timedelta()
        self.tokens: list[str] = []
        self.logged_in: dict[int, datetime] = {}

    @property
    def now(self) -> datetime:
        """The time on its clock."""
        return datetime.now(UTC) + self.ahead

    def answer(self, connection: int, command: Command) -> bytes | None:
        """Answer one command of a connection."""
        if command[0] == b"AUTH":
            user, token = command[1].decode(), command[2].decode()
            self.tokens.append(token)
            if not self.accepts(user, token):
                return REFUSED
            self.logged_in[connection] = self.now
            return RedisStub.OK
        since = self.logged_in.get(connection)
        if since is None:
            return b"-NOAUTH Authentication required.\r\n"
        if self.now - since >= timedelta(hours=12):
            return b"-NOAUTH this connection has expired\r\n"
        return FOUND if command[0] == b"EVALSHA" else RedisStub.OK

    def accepts(self, user: str, token: str) -> bool:
        """Check a token by AWS' documented algorithm, without botocore."""
        place, _, query = token.partition("/?")
        given = dict(parse_qsl(query, keep_blank_values=True))
        signature = given.pop("X-Amz-Signature", "")
        signed_at = datetime.strptime(given["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        scope = given["X-Amz-Credential"].partition("/")[2]
        canonical_query = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(given.items()))
        canonical = f"GET\n/\n{canonical_query}\nhost:{place}\n\nhost\n{hashlib.sha256(b'').hexdigest()}"
        text = f"AWS4-HMAC-SHA256\n{given['X-Amz-Date']}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{SECRET}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return (
            hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), signature)
            and (place, given["Action"], given["User"], user) == ("my-cache", "connect", "app", "app")
            and scope == f"{signed_at:%Y%m%d}/eu-west-1/{self.service}/aws4_request"
            and given.get("ResourceType") == self.resource
            and given["X-Amz-Credential"].startswith("AKID/")
            and given.get("X-Amz-Security-Token") == "a session token"
            and self.now < signed_at + timedelta(seconds=int(given["X-Amz-Expires"]))
            and int(given["X-Amz-Expires"]) == 900
        )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an authority and a certificate for 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("iam")
    create_authority(directory, openssl)
    return directory


@contextmanager
def serving(server: IamServer, certificates: Path, **more: Any) -> Iterator[Settings]:
    """Run the server behind TLS; yield settings that lead to it."""
    with RedisStub(server.answer) as stub:
        process, port = start_front(int(stub.url.rpartition(":")[2].partition("/")[0]), certificates)
        try:
            yield settings_of(port, certificates, **more)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def settings_of(port: int, certificates: Path, **more: Any) -> Settings:
    """Settings with IAM authentication."""
    given: dict[str, Any] = {
        "redis_url": f"rediss://app@127.0.0.1:{port}/0?ssl_ca_certs={certificates}/ca.crt",
        "redis_iam": "elasticache",
        "redis_iam_cache": "My-Cache",
        "registry_id": "feed0123456789ab",
        "aws_region": "eu-west-1",
        "lookup_timeout": 20.0,
    }
    return Settings(**(given | more))


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The credentials that the server knows."""
    for name, value in (("ACCESS_KEY_ID", "AKID"), ("SECRET_ACCESS_KEY", SECRET), ("SESSION_TOKEN", "a session token")):
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.mark.parametrize(
    ("kind", "service", "resource"),
    [
        ("elasticache", "elasticache", None),
        ("elasticache-serverless", "elasticache", "ServerlessCache"),
        ("memorydb", "memorydb", None),
    ],
)
def test_each_connection_logs_in_with_its_own_token(
    kind: str, service: str, resource: str | None, certificates: Path
) -> None:
    """Lookups, other commands and dedicated connections; the cache's name is in lower case."""
    server = IamServer(service, resource)
    with serving(server, certificates, redis_iam=kind) as settings:
        store = RedisRegistry(settings)
        registry = Registry(store, MemoryBackup())
        assert (registry.lookup("conv").max_n, registry.lookup("conv").source) == (4, "redis")
        (primary,) = store.primaries()
        with closing(Connections(settings, timeout=20.0, retries=0).dedicated(primary)) as connection:
            assert connection.execute([("PING",)]) == [b"OK"]
        store.close()
    assert len(server.tokens) == len(server.logged_in) == 2


def test_a_token_that_is_too_old_is_refused(certificates: Path) -> None:
    """The server's own check: a cached token would not log in a quarter of an hour later."""
    server = IamServer()
    with serving(server, certificates) as settings:
        store = RedisRegistry(settings)
        assert store.lookup(store.primaries()[0], ["conv"]) == [4]
        assert server.accepts("app", server.tokens[0])
        server.ahead = timedelta(minutes=16)
        assert not server.accepts("app", server.tokens[0])
        store.close()
    assert not server.accepts("other", server.tokens[0])


def test_connections_are_renewed_before_they_expire(certificates: Path) -> None:
    """No lookup fails: its connection is opened anew an hour before the server closes it."""
    server, seconds = IamServer(), [0.0]
    with serving(server, certificates) as settings:
        lookups = Connections(settings, timeout=20.0, retries=0, max_age=IAM_AGE, clock=lambda: seconds[0])
        store = RedisRegistry(settings, lookups=lookups)
        (primary,) = store.primaries()
        for hour in range(0, 40, 2):
            seconds[0] = hour * 3600.0
            since = list(server.logged_in.values())[-1:]
            server.logged_in = {n: at - timedelta(hours=2) for n, at in server.logged_in.items()} if since else {}
            assert store.lookup(primary, ["conv"]) == [4]
        store.close()
    assert len(server.tokens) == 4


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_wrong_credentials_are_refused(name: str, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lookups answer from the backup, and the error quotes no secret."""
    monkeypatch.setenv(name, "another-value")
    server = IamServer()
    with serving(server, certificates, aws_region="eu-west-1", aws_profile=None) as settings:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"AKID{name[-3:]}")  # sessions are kept by the key's id
        store = RedisRegistry(settings)
        registry = Registry(store, MemoryBackup())
        assert registry.lookup("conv").source == "backup"
        assert isinstance(registry.last_failure, AccessDeniedError)
        assert "another-value" not in registry.last_failure.message
        assert "X-Amz" not in registry.last_failure.message
        store.close()


def test_without_credentials_lookups_use_the_backup(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cause is in the error, and the connection is not used without a login."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = IamServer()
    with serving(server, certificates) as settings:
        store = RedisRegistry(settings)
        registry = Registry(store, MemoryBackup(), breaker_seconds=0)
        for _ in range(2):
            assert registry.lookup("conv").source == "backup"
            failure = registry.last_failure
            assert type(failure) is AccessDeniedError
            assert "Unable to locate credentials" in failure.message
            assert "AWS_PROFILE" in failure.hint
        store.close()
    assert not server.tokens


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"redis_url": "redis://app@127.0.0.1:1/0"}, "needs TLS"),
        ({"redis_url": "rediss+sentinel://app@127.0.0.1:1/primary"}, "sentinels"),
        ({"redis_url": "rediss://app:secret@127.0.0.1:1/0"}, "password"),
        ({"redis_url": "rediss://127.0.0.1:1/0"}, "needs a user"),
        ({"redis_password_file": Path("/dev/null")}, "password"),
        ({"redis_iam_cache": None}, "name of the cache"),
        ({"redis_iam": None}, "redis_iam is not"),
    ],
)
def test_incomplete_settings_are_refused(changes: dict[str, Any], words: str, certificates: Path) -> None:
    """When the registry is opened, without a secret in the message."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        RedisRegistry(settings_of(1, certificates, **changes))
    assert "secret" not in caught.value.message


def test_a_region_is_needed(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is part of what is signed."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDnoregion")
    with serving(IamServer(), certificates, aws_region=None) as settings:
        store = RedisRegistry(settings)
        with pytest.raises(ConfigurationError, match="Region"):
            store.lookup(store.primaries()[0], ["conv"])
        store.close()
