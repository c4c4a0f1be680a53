"""Emulators of DynamoDB, stubs before them, and tables on them. No Redis takes part, except by ``settings``."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from saltctl.local.servers import LocalMoto
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from tests.support.aws_stub import AwsStub
from tests.support.dynamodb_local import DIRECTORY_VARIABLE, INSTALL_HINT, DynamoLocal

DIRECTORY = os.environ.get(DIRECTORY_VARIABLE)
"""Read at import, since each test starts with an environment of its own."""


@pytest.fixture
def aws_stub(moto: LocalMoto) -> Iterator[AwsStub]:
    """An HTTP server in front of moto that answers some requests itself."""
    with AwsStub(moto.url) as stub:
        yield stub


@pytest.fixture(scope="session")
def dynamodb_local() -> Iterator[DynamoLocal]:
    """AWS's DynamoDB Local, shared by all tests, which use tables of their own."""
    server = DynamoLocal.find(DIRECTORY)
    if server is None:
        pytest.skip(INSTALL_HINT)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def moto_in_process(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Moto without a server. It is imported here because the import takes a second."""
    from moto import mock_aws

    # A request that moto does not intercept must not leave this machine.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    return mock_aws()


@pytest.fixture(params=["moto", "moto in this process", "dynamodb-local"])
def dynamodb(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings for the test's own messages table, not created yet, on each emulator in turn."""
    settings = Settings(
        redis_url="redis://127.0.0.1:1/0", messages_table=f"messages-{uuid.uuid4().hex[:8]}", aws_region="us-east-1"
    )
    if request.param == "moto in this process":
        with request.getfixturevalue("moto_in_process"):
            yield settings
    else:
        server = request.getfixturevalue("moto" if request.param == "moto" else "dynamodb_local")
        yield replace(settings, aws_endpoint_url=server.url)


@pytest.fixture
def aws_settings(moto: LocalMoto) -> Settings:
    """Settings for the test's own backup table on moto; there is no Redis."""
    return Settings(
        backup_table=f"backup-{uuid.uuid4().hex[:8]}",
        aws_region="us-east-1",
        aws_endpoint_url=moto.url,
        actor="tester@test",
    )


@pytest.fixture(params=["moto", "moto in this process", "dynamodb-local"])
def backup(request: pytest.FixtureRequest, aws_settings: Settings) -> Iterator[BackupTable]:
    """The backup table, created and empty, on each emulator in turn."""
    with ExitStack() as stack:
        if request.param == "moto in this process":
            stack.enter_context(request.getfixturevalue("moto_in_process"))
            aws_settings = replace(aws_settings, aws_endpoint_url=None)
        elif request.param == "dynamodb-local":
            aws_settings = replace(aws_settings, aws_endpoint_url=request.getfixturevalue("dynamodb_local").url)
        table = BackupTable(aws_settings)
        table.create()
        yield table


@pytest.fixture
def atomic(request: pytest.FixtureRequest) -> None:
    """Skip an emulator whose conditional updates are not atomic; for tests with concurrent writers."""
    if request.node.callspec.params["backup"] == "moto in this process":
        pytest.skip("moto in this process checks a condition and writes in two steps")


@pytest.fixture
def moto_backup(aws_settings: Settings) -> BackupTable:
    """The backup table on moto's server, which a stub can precede."""
    table = BackupTable(aws_settings)
    table.create()
    return table


@pytest.fixture
def stubbed_backup(aws_settings: Settings, moto_backup: BackupTable, aws_stub: AwsStub) -> BackupTable:
    """That table through the stub, with one attempt a request, so that errors are not retried."""
    behind = aws_stub.settings(aws_settings)
    return BackupTable(behind, client=create_client(behind, "dynamodb", attempts=1))
