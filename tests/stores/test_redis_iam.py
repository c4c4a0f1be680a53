"""IAM authentication: the server checks each token by itself, and closes connections after twelve hours."""

from __future__ import annotations

import hashlib
import hmac
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest

from saltctl.errors import AccessDeniedError, AwsUnavailableError, ConfigurationError, RedisUnavailableError
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.bounded.aws_credentials import SharedCredentials
from saltctl.stores.bounded.deadline import remaining
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.testing import MemoryBackup
from tests.support.redis_stub import Command, RedisStub, bulk
from tests.support.tls import create_authority, start_front

pytestmark = pytest.mark.slow

SECRET = "a-secret/key"  # noqa: S105  of this test
FOUND = b"*1\r\n$1\r\n4\r\n"
REFUSED = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"


class Clock:
    """The time by which the server checks, tokens are signed, and connections grow old."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @property
    def now(self) -> datetime:
        """The time."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)


class IamServer:
    """Decides who may log in, as ElastiCache does, by ``clock``."""

    def __init__(self, clock: Clock, service: str = "elasticache", resource: str | None = None) -> None:
        self.clock = clock
        self.service = service
        self.resource = resource
        self.slots = b""
        self.tokens: list[str] = []
        self.logged_in: dict[int, datetime] = {}

    def answer(self, connection: int, command: Command) -> bytes | None:
        """Answer one command of a connection."""
        if command[0] == b"AUTH":
            user, token = command[1].decode(), command[2].decode()
            self.tokens.append(token)
            if not self.accepts(user, token):
                return REFUSED
            self.logged_in[connection] = self.clock.now
            return RedisStub.OK
        since = self.logged_in.get(connection)
        if since is None:
            return b"-NOAUTH Authentication required.\r\n"
        if self.clock.now - since >= timedelta(hours=12):
            return b"-NOAUTH this connection has expired\r\n"
        sha = bulk(hashlib.sha1(command[-1]).hexdigest())  # noqa: S324  as Redis
        answers = {b"EVALSHA": FOUND, b"SCRIPT": sha, b"HSETNX": b":1\r\n", b"CLUSTER": self.slots}
        return answers.get(command[0], RedisStub.OK)

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
            and given.get("X-Amz-Security-Token") == "a/session+token"
            and self.clock.now < signed_at + timedelta(seconds=int(given["X-Amz-Expires"]))
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


class Fronts:
    """Two ports with TLS, on each of which an IamServer may answer."""

    def __init__(self, certificates: Path, running: ExitStack) -> None:
        self.certificates = certificates
        self.servers: list[IamServer] = []
        self.ports = [self._start(number, running) for number in range(2)]

    def _start(self, number: int, running: ExitStack) -> int:
        def answer(connection: int, command: Command) -> bytes | None:
            return self.servers[number].answer(connection, command)

        stub = running.enter_context(RedisStub(answer))
        process, port = start_front(int(stub.url.rpartition(":")[2].partition("/")[0]), self.certificates)
        running.enter_context(process)
        running.callback(process.kill)
        return port

    def serve(self, *servers: IamServer, **more: Any) -> Settings:
        """Let these servers answer from now on; return settings that lead to the first one."""
        self.servers = list(servers)
        return settings_of(self.ports[0], self.certificates, **more)


@pytest.fixture(scope="module")
def fronts(certificates: Path) -> Iterator[Fronts]:
    """The ports, which all tests share."""
    with ExitStack() as running:
        yield Fronts(certificates, running)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of one test."""
    clock = Clock()
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: clock.now.replace(tzinfo=None))
    return clock


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
    for name, value in (("ACCESS_KEY_ID", "AKID"), ("SECRET_ACCESS_KEY", SECRET), ("SESSION_TOKEN", "a/session+token")):
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
    kind: str, service: str, resource: str | None, fronts: Fronts, clock: Clock
) -> None:
    """Lookups, other commands and dedicated connections; the cache's name is in lower case."""
    server = IamServer(clock, service, resource)
    settings = fronts.serve(server, redis_iam=kind)
    with Registry(RedisRegistry(settings), MemoryBackup()) as registry:
        assert (registry.lookup("conv").max_n, registry.lookup("conv").source) == (4, "redis")
        (primary,) = registry.store.primaries()
        with closing(Connections(settings, timeout=20.0, retries=0).dedicated(primary)) as connection:
            assert connection.execute([("PING",)]) == [b"OK"]
    assert len(server.tokens) == len(server.logged_in) == 2


def test_logins_are_renewed_before_they_expire(fronts: Fronts, clock: Clock) -> None:
    """Neither a lookup nor a rebuild of forty hours fails. A token is valid for 15 minutes: none is used twice.

    Lookups open a new connection. A rebuild logs in anew: its connection belongs to one server process.
    """
    server = IamServer(clock)
    with closing(RedisRegistry(fronts.serve(server), clock=lambda: clock.seconds)) as store:
        (primary,) = store.primaries()
        (session,) = store.sessions()
        for hour in range(0, 40, 2):
            clock.seconds = hour * 3600.0
            assert store.lookup(primary, ["conv"]) == [4]
            session.begin_merge([("conv", 4)])
            assert session.end_merge() == 1
        session.close()
    assert len(server.tokens) == 2 * 4
    assert len(server.logged_in) == 4 + 1
    assert not server.accepts("app", server.tokens[0])


def test_each_node_of_a_cluster_is_logged_in_to(fronts: Fronts, clock: Clock) -> None:
    """Each connection, also the one that asks for the slots, has a token for the cluster."""
    servers = IamServer(clock), IamServer(clock)
    node = b"*2\r\n" + bulk("127.0.0.1") + b":%d\r\n"
    ranges = ((0, 8191, fronts.ports[0]), (8192, 16383, fronts.ports[1]))
    slots = b"".join(b"*3\r\n:%d\r\n:%d\r\n%b" % (first, last, node % port) for first, last, port in ranges)
    servers[0].slots = servers[1].slots = b"*2\r\n" + slots
    settings = fronts.serve(*servers)
    url = str(settings.redis_url).replace("rediss:", "rediss+cluster:")
    with closing(RedisRegistry(replace(settings, redis_url=url))) as store:
        primaries = store.primaries()
        assert [store.lookup(primary, ["conv"]) for primary in primaries] == [[4], [4]]
    assert [len(server.logged_in) for server in servers] == [2, 1]
    assert all(len(server.tokens) == len(server.logged_in) for server in servers)


def test_a_silent_provider_is_an_outage_of_redis(fronts: Fronts, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting waits for it within its own budget. A lookup uses the backup, for which there is more time."""
    budgets: list[float | None] = []

    def stay_silent(_: SharedCredentials) -> None:
        budgets.append(remaining())
        raise AwsUnavailableError("the AWS credentials provider 'sso' did not answer", hint="aws sso login")

    monkeypatch.setattr(SharedCredentials, "get_frozen_credentials", stay_silent)
    server = IamServer(clock)
    store = RedisRegistry(fronts.serve(server, lookup_timeout=30.0, redis_timeout=40.0))
    with Registry(store, MemoryBackup(), breaker_seconds=0) as registry:
        assert registry.lookup("conv").source == "backup"
        failures = [registry.last_failure]
        for ask in (store.sessions, lambda: store.merge("conv", 4)):
            with pytest.raises(RedisUnavailableError) as caught:
                ask()
            failures.append(caught.value)
    for failure in failures:
        assert type(failure) is RedisUnavailableError
        assert "'sso' did not answer" in failure.message
        assert failure.hint == "aws sso login"
    assert all(budget is not None and budget <= most for budget, most in zip(budgets, (30, 40, 40), strict=True))
    assert not server.tokens


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_wrong_credentials_are_refused(
    name: str, fronts: Fronts, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lookups answer from the backup, and the error quotes no secret."""
    monkeypatch.setenv(name, "another-value")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"AKID{name[-3:]}")  # sessions are kept by the key's id
    with Registry(RedisRegistry(fronts.serve(IamServer(clock))), MemoryBackup()) as registry:
        assert registry.lookup("conv").source == "backup"
        assert isinstance(registry.last_failure, AccessDeniedError)
        assert "another-value" not in registry.last_failure.message
        assert "X-Amz" not in registry.last_failure.message


def test_without_credentials_lookups_use_the_backup(
    fronts: Fronts, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cause is in the error, and the connection is not used without a login."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = IamServer(clock)
    with Registry(RedisRegistry(fronts.serve(server)), MemoryBackup(), breaker_seconds=0) as registry:
        for _ in range(2):
            assert registry.lookup("conv").source == "backup"
            failure = registry.last_failure
            assert type(failure) is AccessDeniedError
            assert "none in the environment, nor in profile 'default'" in failure.message
            assert "AWS_PROFILE" in failure.hint
    assert not server.tokens


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"redis_url": "redis://app@127.0.0.1:1/0"}, "needs TLS"),
        ({"redis_url": "rediss+sentinel://app@127.0.0.1:1/primary"}, "sentinels"),
        ({"redis_url": "rediss://app:secret@127.0.0.1:1/0"}, "password"),
        ({"redis_url": "rediss://127.0.0.1:1/0"}, "needs a user"),
        ({"redis_url": "rediss://127.0.0.1:1/0?username=app"}, "a user is not an option"),
        ({"redis_password_file": Path("/dev/null")}, "password"),
        ({"redis_iam_cache": None}, "name of the cache"),
        ({"redis_iam": None}, "redis_iam is not"),
        ({"aws_region": None}, "needs an AWS Region"),
        ({"aws_region": None, "aws_profile": "no-such"}, "no-such"),
    ],
)
def test_incomplete_settings_are_refused(
    changes: dict[str, Any], words: str, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the registry is opened, without a secret in the message."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDnoregion")
    with pytest.raises(ConfigurationError, match=words) as caught:
        RedisRegistry(settings_of(1, certificates, **changes))
    assert "secret" not in caught.value.message
