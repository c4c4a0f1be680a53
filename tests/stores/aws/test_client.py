"""Clients with timeouts and retries, and the errors that they raise."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from saltctl.detection.write_meter import WriteMeter
from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    ConfigurationError,
    SaltctlError,
    ThrottledError,
)
from saltctl.local.servers import LocalMoto, free_port
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.failures.errors import aws_errors, to_saltctl_error
from saltctl.stores.bounded.aws_endpoints import keep_to_loopback
from saltctl.throttling.key_range import throttled_by_key_range
from tests.stores.aws.backup_helpers import THROTTLED, make_raise
from tests.support.aws_stub import GARBAGE, REASONS, THROTTLES, AwsStub, refusal, throttled


def _session() -> Any:
    from botocore.session import get_session

    core: Any = get_session()
    keep_to_loopback(core)
    return core


def test_a_session_keeps_the_endpoints_of_its_own_services() -> None:
    """Botocore reads those of 400 services for the first client; later clients find those that they need."""
    core = _session()
    core.create_client("dynamodb", region_name="eu-central-1")
    partitions = core.get_component("data_loader").load_data("endpoints")["partitions"]
    kept = {name for partition in partitions for name in partition["services"]}
    assert (
        {"dynamodb", "monitoring", "s3", "sts"}
        <= kept
        <= {
            core.get_component("data_loader").load_service_model(name, "service-2")["metadata"]["endpointPrefix"]
            for name in ("dynamodb", "cloudwatch", "s3", "sts", "sso", "sso-oidc", "signin")
        }
    )
    client = core.create_client("cloudwatch", region_name="cn-north-1")
    assert client.meta.endpoint_url == "https://monitoring.cn-north-1.amazonaws.com.cn"


def test_closing_closes_the_idle_connections_at_once(stubbed_backup: BackupTable) -> None:
    """The next request opens another one; the client of an application is left alone."""
    given, own = stubbed_backup, BackupTable(stubbed_backup.settings)
    for table in (given, own):
        table.get("conv")
    [pool], [given_pool] = _pools(own), _pools(given)
    [connection] = [one for one in pool.pool.queue if one is not None]
    assert connection.sock is not None
    for table in (given, own):
        table.close()
    assert connection.sock is None
    assert _pools(given) == [given_pool]
    own.get("conv")
    assert _pools(own) != [pool]


def _pools(table: BackupTable) -> list[Any]:
    pools = table.client._endpoint.http_session._manager.pools  # noqa: SLF001  urllib3 has no public way
    return list(map(pools.get, pools.keys()))


@pytest.mark.parametrize(
    "answer",
    [
        THROTTLED,
        refusal("RequestLimitExceeded"),
        refusal("ThrottlingException"),
    ],
    ids=lambda answer: answer[1]["__type"].rpartition("#")[2],
)
def test_throttled_writes_raise_throttled_error(stubbed_backup: BackupTable, aws_stub: AwsStub, answer: Any) -> None:
    """A later retry can succeed."""
    aws_stub.answer_always("UpdateItem", answer)
    with pytest.raises(ThrottledError, match="throttles") as refused:
        stubbed_backup.raise_max_n("conv", make_raise(2))
    assert refused.value.exit_code == 69
    with pytest.raises(ThrottledError):
        stubbed_backup.commit_write_n("conv", 2)


@pytest.mark.slow
def test_a_few_failures_are_retried(aws_settings: Settings, moto_backup: BackupTable, aws_stub: AwsStub) -> None:
    """The default client hides two server errors in a row."""
    behind = BackupTable(aws_stub.settings(aws_settings))
    aws_stub.answer_first(2, "UpdateItem", refusal("InternalServerError", 500))
    assert behind.raise_max_n("conv", make_raise(2)).changed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (refusal("InternalServerError", 500), AwsUnavailableError, "server error"),
        (refusal("ServiceUnavailable", 503), AwsUnavailableError, "server error"),
        (refusal("AccessDeniedException", message="User: x is not authorized"), AccessDeniedError, "not authorized"),
        (refusal("UnrecognizedClientException"), AccessDeniedError, "does not permit"),
        (refusal("ExpiredTokenException"), AccessDeniedError, "does not permit"),
        (refusal("NotAuthorized"), AccessDeniedError, "does not permit"),
        (refusal("OptInRequired", 403), AccessDeniedError, "does not permit"),
        (refusal("RequestExpired"), AccessDeniedError, "does not permit"),
        (refusal("ResourceNotFoundException"), ConfigurationError, "no DynamoDB table"),
        (refusal("ValidationException", message="wrong key"), ConfigurationError, "wrong key"),
        (refusal("SomethingNewException", message="new"), AwsUnavailableError, "SomethingNewException"),
    ],
    ids=lambda value: value[1]["__type"].rpartition("#")[2] if isinstance(value, tuple) else "",
)
def test_each_error_code_has_its_exception(
    stubbed_backup: BackupTable, aws_stub: AwsStub, answer: Any, error: type[SaltctlError], says: str
) -> None:
    """Outages, permissions and configuration have different exit codes and different next steps."""
    aws_stub.rule = lambda operation, request: answer
    for call in (
        lambda: stubbed_backup.get("conv"),
        lambda: stubbed_backup.raise_max_n("conv", make_raise(2)),
        lambda: list(stubbed_backup.scan(1)),
    ):
        with pytest.raises(error, match=says) as refused:
            call()
        assert type(refused.value) is error
        assert refused.value.hint


def test_an_endpoint_that_refuses_connections(aws_settings: Settings) -> None:
    """The message names the endpoint, which is the most likely mistake."""
    unreachable = replace(aws_settings, aws_endpoint_url=f"http://127.0.0.1:{free_port()}")
    backup = BackupTable(unreachable, client=create_client(unreachable, "dynamodb", attempts=1))
    with pytest.raises(AwsUnavailableError, match=f"cannot be reached .* at {unreachable.aws_endpoint_url}") as refused:
        backup.get("conv")
    assert refused.value.exit_code == 69


@pytest.mark.slow
def test_an_endpoint_that_never_answers(aws_settings: Settings, moto_backup: BackupTable, aws_stub: AwsStub) -> None:
    """The request ends after aws_timeout, not after botocore's minute."""
    finished = threading.Event()

    def never(operation: str, request: dict[str, Any]) -> None:
        finished.wait(30)

    aws_stub.rule = never
    slow = aws_stub.settings(replace(aws_settings, aws_timeout=1.0))
    behind = BackupTable(slow, client=create_client(slow, "dynamodb", attempts=1))
    try:
        with pytest.raises(AwsUnavailableError, match="ReadTimeout"):
            behind.get("conv")
    finally:
        finished.set()


@pytest.mark.slow
def test_no_region(aws_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the setting that is missing."""
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigurationError, match="no AWS Region") as refused:
        BackupTable(replace(aws_settings, aws_region=None)).get("conv")
    assert "AWS_REGION" in refused.value.hint


@pytest.mark.parametrize(
    "use",
    [
        lambda settings: create_client(settings, "dynamodb"),
        lambda settings: WriteMeter.open(replace(settings, redis_url="rediss://127.0.0.1:1")),
    ],
    ids=["AWS", "Redis"],
)
def test_a_key_log_that_cannot_be_written(
    use: Callable[[Settings], Any], aws_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It names the variable and the file, before any request: every TLS context opens it."""
    file = tmp_path / "gone" / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(file))
    with pytest.raises(ConfigurationError, match=f"SSLKEYLOGFILE names '{file}', .*No such file") as refused:
        use(aws_settings)
    assert refused.value.exit_code == 78


@pytest.mark.slow
def test_no_credentials(aws_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A permission error, with the command that shows the current AWS identity."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDeniedError, match="no usable AWS credentials") as refused:
        BackupTable(aws_settings).get("conv")
    assert refused.value.exit_code == 77
    assert "sts get-caller-identity" in refused.value.hint


def test_an_unknown_profile(aws_settings: Settings) -> None:
    """A configuration error that names the profile."""
    with pytest.raises(ConfigurationError, match="unknown"):
        BackupTable(replace(aws_settings, aws_profile="unknown")).get("conv")


def test_botocore_reads_endpoints_from_the_environment(
    aws_settings: Settings, moto: LocalMoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_ENDPOINT_URL_DYNAMODB is more specific than AWS_ENDPOINT_URL, and botocore knows that."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", moto.url)
    behind = replace(
        aws_settings,
        aws_endpoint_url="http://127.0.0.1:1",
        origins={"aws_endpoint_url": "environment AWS_ENDPOINT_URL"},
    )
    BackupTable(behind).create()
    assert BackupTable(behind).get("conv") is None


@pytest.mark.slow
def test_concurrent_first_uses_create_one_client(aws_settings: Settings, moto_backup: BackupTable) -> None:
    """Eight threads use the table for the first time together: they share one client, and all reads succeed."""
    fresh = BackupTable(aws_settings)
    barrier = threading.Barrier(8)

    def client(_: int) -> int:
        barrier.wait()
        assert fresh.get("conv") is None
        return id(fresh.client)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(client, range(8)))) == 1


def test_a_proxy_page_is_not_a_missing_item(stubbed_backup: BackupTable, aws_stub: AwsStub) -> None:
    """A 200 that is not JSON is an outage: as a missing item it would make a salted conversation unsalted."""
    aws_stub.answer_always("BatchGetItem", GARBAGE)
    with pytest.raises(AwsUnavailableError):
        stubbed_backup.get("c")


def test_an_internal_error_is_not_converted_to_an_outage() -> None:
    """Exceptions of the same types that botocore's parser did not raise are not converted."""
    with pytest.raises(AttributeError), aws_errors("here"):
        _ = "text".get  # type: ignore[attr-defined]


@pytest.mark.slow
def test_only_key_range_throttling_of_the_table_is_heat(settings: Settings) -> None:
    """Three errors with two spellings, sixteen reasons: all are throttling, and salting helps against two of them."""
    from botocore.exceptions import ClientError

    with AwsStub(settings.aws_endpoint_url or "") as stub:
        client = create_client(stub.settings(settings), "dynamodb", attempts=1)
        heat = set()
        for code, reason in product(THROTTLES, REASONS):
            answer = throttled(code, reason)
            stub.rule = lambda operation, request, answer=answer: answer  # type: ignore[misc]
            with pytest.raises(ClientError) as raised:
                client.put_item(TableName="messages", Item={"k": {"S": "v"}})
            assert isinstance(to_saltctl_error(raised.value, "'messages'"), ThrottledError), (code, reason)
            if throttled_by_key_range(raised.value):
                heat.add((code, reason))
    assert len(REASONS) == 16
    key_ranges = {"TableReadKeyRangeThroughputExceeded", "TableWriteKeyRangeThroughputExceeded"}
    assert heat == set(product(THROTTLES, key_ranges))


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
def test_loopback_is_reached_without_a_proxy(name: str, moto: LocalMoto, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is not asked, also by clients for credentials; other endpoints are reached through it."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        settings = Settings(aws_endpoint_url=moto.url, aws_timeout=60.0)
        assert "TableNames" in create_client(settings, "dynamodb", attempts=1).list_tables()
        assert _session().create_client("sts", endpoint_url="http://localhost:1").meta.endpoint_url
        proxy.settimeout(0)
        with pytest.raises(BlockingIOError):
            proxy.accept()
        from botocore.exceptions import ProxyConnectionError

        received: list[bytes] = []

        def hang_up() -> None:
            with proxy.accept()[0] as request:
                received.append(request.recv(1000))

        proxy.settimeout(60)
        thread = threading.Thread(target=hang_up)
        thread.start()
        client = create_client(replace(settings, aws_endpoint_url="http://aws.example"), "dynamodb", attempts=1)
        with pytest.raises(ProxyConnectionError):
            client.list_tables()
        thread.join()
        assert received[0].startswith(b"POST http://aws.example/")


@pytest.mark.parametrize(
    ("code", "message", "exit_code", "hint"),
    [
        ("InaccessibleEncryptionCredentialsException", "no", 78, "KMS key"),
        ("KMSAccessDeniedException", "no", 78, "KMS key"),
        ("ItemCollectionSizeLimitExceededException", "no", 78, "10 GB"),
        ("InvalidParameterValue", "no", 78, "config show"),
        ("ValidationError", "no", 78, "config show"),
        ("ValidationException", "Item size has exceeded the maximum allowed size", 78, "smaller item"),
        ("SubscriptionRequiredException", "no", 77, "get-caller-identity"),
        ("RequestTimeTooSkewed", "no", 77, "clock"),
        ("InvalidSignatureException", "Signature expired: 1 is now earlier than 2", 77, "clock"),
        ("TransactionConflictException", "no", 69, "try again"),
        ("ReplicatedWriteConflictException", "no", 69, "try again"),
    ],
)
def test_a_permanent_refusal_is_no_outage(code: str, message: str, exit_code: int, hint: str) -> None:
    """Cron retries an outage for ever; these errors need a change first, except for conflicts."""
    from botocore.exceptions import ClientError

    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    error = to_saltctl_error(ClientError(response, "Any"), "'messages'")
    assert error.exit_code == exit_code
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:99999"}, "AWS endpoint"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:abc"}, "AWS endpoint"),
        ({"AWS_ENDPOINT_URL": "ftp://aws.example"}, "AWS endpoint"),
        ({"HTTPS_PROXY": "http://user:secret@proxy.example:abc"}, "HTTPS_PROXY is not a valid URL"),
        ({"https_proxy": "socks5://proxy.example:1080"}, "HTTPS_PROXY must be"),
        ({"HTTP_PROXY": "proxy.example:0", "AWS_ENDPOINT_URL": "http://aws.example"}, "HTTP_PROXY is not"),
    ],
    ids=str,
)
def test_an_address_that_cannot_be_one_is_a_configuration_error(
    variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the client is created; botocore raises other errors at each request. A secret is not quoted."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=words) as refused:
        create_client(Settings(aws_region="us-east-1"), "dynamodb")
    assert "secret" not in str(refused.value)


def test_a_proxy_without_a_scheme_is_one_of_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """As botocore reads it."""
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    assert create_client(Settings(aws_region="us-east-1"), "dynamodb")
