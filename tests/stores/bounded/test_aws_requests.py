"""Each request to AWS ends within aws_timeout, however slow the endpoint, the network or the resolver is.

Bounds are loose: ten times the timeout, where the servers here would stay silent for minutes.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import AwsUnavailableError, HistoryUnavailableError
from saltctl.history.history import History
from saltctl.history.models import FindOptions
from saltctl.local.servers import LocalMoto
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
from saltctl.stores.aws.inspection import AwsInspection
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.bounded import aws_connections
from saltctl.stores.bounded.deadline import TimeBudget
from tests.support.aws_stub import AwsStub, throttled
from tests.support.lookups import FixedLookups
from tests.support.slow_servers import Front, FullBacklog, Resolver, SlowServer
from tests.support.tls import create_authority, start_front

pytestmark = pytest.mark.slow

TIMEOUT = 0.4
BOUND = 10 * TIMEOUT
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n"


@contextmanager
def ends_in_time(match: str | None = None) -> Iterator[None]:
    """The block must raise AwsUnavailableError, within ten times the timeout."""
    began = time.monotonic()
    with pytest.raises(AwsUnavailableError, match=match):
        yield
    assert time.monotonic() - began < BOUND


def of_endpoint(url: str, **more: Any) -> Settings:
    """Settings with a short timeout; no Redis has a part in it."""
    return Settings(
        aws_endpoint_url=url, aws_region="us-east-1", registry_id="feed0123456789ab", aws_timeout=TIMEOUT, **more
    )


@pytest.fixture
def moto_settings(moto: LocalMoto) -> Settings:
    """Settings for tables of the test's own in moto, with plenty of time."""
    suffix = uuid.uuid4().hex[:8]
    tables = {"backup_table": f"backup-{suffix}", "messages_table": f"messages-{suffix}"}
    return replace(of_endpoint(moto.url, **tables), aws_timeout=60.0)


ANSWERS: dict[str, tuple[bytes, bytes]] = {
    "silent": (b"", b""),
    "dripping status": (b"", b"H"),
    "dripping header": (HEAD + b"X-Slow: ", b"x"),
    "headers for ever": (HEAD, b"X: y\r\n"),
    "100 for ever": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "silent body": (HEAD + b"Content-Length: 100\r\n\r\n{", b""),
    "dripping body": (HEAD + b"Content-Length: 100000\r\n\r\n{", b" "),
    "dripping chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "dripping chunk size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "body without end": (HEAD + b"\r\n{", b" " * 1000),
}


@contextmanager
def slow_endpoint(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an endpoint that is slow in one way."""
    if kind == "name":
        resolver = Resolver(monkeypatch)
        yield "http://hangs.test:8000"
        resolver.released.set()
    elif kind == "addresses":
        with FullBacklog(6) as silent:
            Resolver(monkeypatch, {"many.test": silent.ports})
            yield "http://many.test:8000"
    else:
        with SlowServer(*ANSWERS.get(kind, (b"", b""))) as server:
            if kind == "proxy":
                monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
                monkeypatch.setenv("NO_PROXY", "")
                yield "https://dynamodb.test"
            else:
                yield f"{'https' if kind == 'handshake' else 'http'}://127.0.0.1:{server.port}"


KINDS = [*ANSWERS, "name", "addresses", "proxy", "handshake"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_ends_in_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single request, with its three attempts."""
    with slow_endpoint(kind, monkeypatch) as url:
        table = BackupTable(of_endpoint(url))
        _ = table.client
        with ends_in_time("'saltctl-registry'"):
            table.get("conv")


def test_every_kind_of_request_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all clients: both tables, inspection and CloudWatch."""
    with slow_endpoint("dripping body", monkeypatch) as url:
        settings = of_endpoint(url)
        messages, backup = MessagesTable(settings), BackupTable(settings)
        requests: list[Callable[[], Any]] = [
            lambda: messages.keys,
            lambda: list(messages.sample_partition_keys()),
            backup.check_registry,
            lambda: list(backup.scan(2)),
            lambda: AwsInspection(settings).point_in_time_recovery(BackupTable(settings)),
            lambda: CloudWatchMetrics(settings).describe("table"),
        ]
        for request in requests:
            with ends_in_time():
                request()


@pytest.mark.parametrize("kind", ["silent", "dripping body", "name"])
def test_a_page_ends_in_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a single request may take longer than it; and its threads are free again."""
    with slow_endpoint(kind, monkeypatch) as url:
        settings = replace(of_endpoint(url, page_timeout=TIMEOUT), aws_timeout=600.0)
        lookups = FixedLookups({"conv": 8})
        with History.over(settings, lookups, MessagesTable(settings)) as history, ends_in_time():
            history.page("conv")  # the first one asks for the names of the table's keys


def test_the_threads_of_a_late_page_are_free_again(moto_settings: Settings) -> None:
    """And those of a search: nothing waits for the rest of a request's own time."""
    MessagesTable(moto_settings).create()
    assert moto_settings.aws_endpoint_url is not None
    with AwsStub(moto_settings.aws_endpoint_url) as stub:
        slow = replace(stub.settings(moto_settings), aws_timeout=600.0, page_timeout=TIMEOUT)
        with History.over(slow, FixedLookups({"conv": 8}), MessagesTable(slow)) as history:
            _ = history.store.keys
            stub.delay = 100.0
            with pytest.raises(HistoryUnavailableError):
                history.page("conv")
            with pytest.raises(HistoryUnavailableError):
                history.find("conv", "m1", FindOptions(timeout=TIMEOUT))
            ended = time.monotonic() + 60
            while history.pool.in_progress and time.monotonic() < ended:
                time.sleep(0.01)
            assert history.pool.in_progress == 0


def test_a_body_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read to its end, and not asked for again."""
    monkeypatch.setattr(aws_connections, "LONGEST_BODY", 1 << 20)
    with SlowServer(HEAD + b"\r\n{", b" " * (1 << 16), pause=0) as server:
        settings = replace(of_endpoint(f"http://127.0.0.1:{server.port}"), aws_timeout=100.0)
        with pytest.raises(AwsUnavailableError, match="does not come from AWS"):
            BackupTable(settings).get("conv")
        assert server.connections == 1


def test_retries_stay_within_the_budget(moto_settings: Settings) -> None:
    """Their pauses, which grow to 20 s while AWS throttles, are cut short; a spent budget ends them."""
    assert moto_settings.aws_endpoint_url is not None
    with AwsStub(moto_settings.aws_endpoint_url) as stub:
        behind = stub.settings(moto_settings)
        client = create_client(replace(behind, aws_timeout=4 * TIMEOUT), "dynamodb", attempts=50)
        stub.answer_always("BatchGetItem", throttled("ThrottlingException"))
        began = time.monotonic()
        with pytest.raises(AwsUnavailableError):
            BackupTable(behind, client=client).get("conv")
        assert time.monotonic() - began < 4 * BOUND
        assert len(stub.seen) > 1


def test_connections_that_were_lost_cost_half_of_one_request(
    moto_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A balancer has forgotten all idle connections: the first request finds out, and is answered over a new one."""
    monkeypatch.setattr(aws_connections, "SURELY_OPEN_SECONDS", 0.0)
    BackupTable(moto_settings).create()
    with Front(int(str(moto_settings.aws_endpoint_url).rpartition(":")[2])) as front:
        settings = replace(moto_settings, aws_endpoint_url=f"http://127.0.0.1:{front.port}", aws_timeout=6.0)
        table = BackupTable(settings)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(table.get, ["conv"] * 32)) == [None] * 32
        front.lose()
        assert table.get("conv") is None


@pytest.mark.parametrize(("surely_open", "halved"), [(60.0, False), (0.0, True)])
def test_a_slow_server_has_the_whole_budget(
    moto_settings: Settings, monkeypatch: pytest.MonkeyPatch, surely_open: float, halved: bool
) -> None:
    """Also over a connection that was used a moment ago: a second attempt would only meet the same server."""
    budgets: list[float] = []

    class Noted(TimeBudget):
        """Notes its seconds."""

        def __init__(self, seconds: float) -> None:
            budgets.append(seconds)
            super().__init__(seconds)

    table = BackupTable(moto_settings)
    table.create()
    monkeypatch.setattr(aws_connections, "SURELY_OPEN_SECONDS", surely_open)
    monkeypatch.setattr(aws_connections, "TimeBudget", Noted)
    assert table.get("conv") is None
    assert any(seconds <= moto_settings.aws_timeout / 2 for seconds in budgets) is halved


def test_an_outer_budget_bounds_a_request() -> None:
    """The smaller one counts: that of a page, for example."""
    with SlowServer() as server, TimeBudget(TIMEOUT), ends_in_time():
        BackupTable(replace(of_endpoint(f"http://127.0.0.1:{server.port}"), aws_timeout=600.0)).get("conv")


def test_tls_works_within_budgets(moto_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests over TLS, first and later ones of a connection."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl is not installed")
    create_authority(tmp_path, openssl)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.crt"))
    BackupTable(moto_settings).create()
    port = int(str(moto_settings.aws_endpoint_url).rpartition(":")[2])
    process, front = start_front(port, tmp_path)
    try:
        table = BackupTable(replace(moto_settings, aws_endpoint_url=f"https://127.0.0.1:{front}"))
        assert [table.get("conv") for _ in range(3)] == [None] * 3
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
