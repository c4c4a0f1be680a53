"""``saltctl doctor``: formats, exit codes, and servers that refuse commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from saltctl.cli.health.doctor import draw, nagios, pasteable, prometheus
from saltctl.health.findings import Finding, Status
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalRedis
from saltctl.metrics import DOCTOR_CHECK, DOCTOR_MEASURES
from saltctl.settings import Settings
from saltctl.stores.aws.client import create_client
from tests.cli.conftest import Runner
from tests.support.aws_stub import AwsStub
from tests.support.exported import exported_names


@pytest.mark.slow
def test_exit_codes_of_monitoring_formats(saltctl: Runner, seeded: LocalEnvironment) -> None:
    """The Nagios format has the exit codes of a plugin, the Prometheus format those of every command."""
    outcome = saltctl("doctor", "--only", "stream-consumers", "--format", "nagios")
    assert (outcome.code, outcome.out.split(" - ")[0]) == (2, "SALTCTL CRITICAL")
    assert saltctl("doctor", "--only", "lease", "--format", "nagios").code == 0
    outcome = saltctl("doctor", "--only", "stream-consumers", "--format", "prometheus")
    assert outcome.code == 3
    table = f'table="{seeded.settings.backup_table}"'
    assert f'saltctl_doctor_check{{check="stream-consumers",status="fail",{table}}} 1.0\n' in outcome.out
    exported = exported_names(saltctl("doctor", "--format", "prometheus").out)
    measures = {metric.name for metric in DOCTOR_MEASURES.values()}
    assert exported - measures == {DOCTOR_CHECK.name}
    assert {name for name in measures - exported if "_audit_" not in name} == set(), "no audit may have run"
    assert saltctl("doctor", "--format", "nagios", "-o", "json").code == 2


def test_an_unknown_check_is_a_usage_error(saltctl: Runner) -> None:
    """An unknown check exits 2 before any request, and the hint names similar checks."""
    outcome = saltctl("doctor", "--only", "redis-role,leese", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (2, "usage")
    assert "lease" in outcome.error["hint"]


def test_unreadable_settings(saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unreadable settings fail the check of the settings, and skip the others."""
    monkeypatch.setenv("SALTCTL_BUCKETS", "three")
    outcome = saltctl("doctor", "-o", "json")
    first, *rest = outcome.json["checks"]
    assert (outcome.code, first["status"], "SALTCTL_BUCKETS" in first["detail"]) == (3, "fail", True)
    assert {check["status"] for check in rest} == {"skip"}


def test_the_fixes_of_failures_come_first() -> None:
    """A warning does not break the promise; the list of the checks keeps its order."""
    from rich.console import Console

    screen = Console(file=(out := StringIO()), width=80)
    statuses: list[Status] = ["warn", "ok", "fail"]
    draw(screen, [Finding(status, "d", "" if status == "ok" else "fix it", check=f"c-{status}") for status in statuses])
    lines = out.getvalue().splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("To fix")] == ["c-fail:", "c-warn:"]
    assert [line.split()[1] for line in lines[:3]] == ["c-warn", "c-ok", "c-fail"]


@pytest.mark.slow
def test_recent_throttling_fails(saltctl: Runner, configured: Settings) -> None:
    """Throttle events of the last minutes fail, with their cause and the command that shows more."""
    assert saltctl("setup", "--messages").code == 0
    cloudwatch = create_client(configured, "cloudwatch")
    datum = {
        "MetricName": "WriteKeyRangeThroughputThrottleEvents",
        "Dimensions": [{"Name": "TableName", "Value": configured.messages_table}],
        "Timestamp": datetime.now(UTC) - timedelta(minutes=5),
        "Value": 70.0,
    }
    cloudwatch.put_metric_data(Namespace="AWS/DynamoDB", MetricData=[datum])
    (check,) = saltctl("doctor", "--only", "throttles", "-o", "json").json["checks"]
    assert (check["status"], "key_range 70" in check["detail"]) == ("fail", True)
    assert check["fix"] == "saltctl throttle scan --since 15m"


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[LocalRedis]:
    """Start a server without CONFIG and ACL, as managed ones are."""
    server = LocalRedis(tmp_path / "managed", options={"rename-command CONFIG": '""', "rename-command ACL": '""'})
    server.start()
    yield server
    server.kill()


def test_checks_of_a_managed_redis(saltctl: Runner, managed: LocalRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that need INFO are made; checks that need CONFIG or ACL are skipped, and say why."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", managed.url)
    checks = {check["name"]: check for check in saltctl("doctor", "--only", "redis", "-o", "json").json["checks"]}
    assert checks["redis-eviction"]["status"] == checks["redis-aof"]["status"] == "ok"
    assert checks["redis-fsync"]["status"] == checks["redis-permissions"]["status"] == "skip"
    assert "CONFIG" in checks["redis-fsync"]["detail"]
    assert checks["redis-verified"]["status"] == "fail"


def test_redis_user_permissions(saltctl: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application user that may load scripts is a warning, a service user without XADD a failure."""
    import redis

    server = LocalRedis(tmp_path / "acl")
    server.start()
    try:
        monkeypatch.setenv("SALTCTL_REDIS_URL", server.url)
        emitted = saltctl("service", "emit", "acl").out.replace("CHANGE-ME", "long-password")
        with redis.Redis.from_url(server.url) as admin:
            for line in emitted.splitlines():
                admin.execute_command("ACL", "SETUSER", *_rules(line))
            assert _permissions(saltctl)["status"] == "ok"
            admin.execute_command("ACL", "SETUSER", "saltctl-app", "+script|load")
            assert "saltctl-app may script" in _permissions(saltctl)["detail"]
            admin.execute_command("ACL", "SETUSER", "saltctl-service", "-xadd")
            found = _permissions(saltctl)
            assert (found["status"], "+xadd" in found["fix"]) == ("fail", True)
    finally:
        server.kill()


def _permissions(saltctl: Runner) -> dict[str, str]:
    check: dict[str, str] = saltctl("doctor", "--only", "redis-permissions", "-o", "json").json["checks"][0]
    return check


def _rules(line: str) -> list[str]:
    """Split a line of an ACL file into words; a selector in brackets is one word."""
    name, _, rules = line.removeprefix("user ").partition(" ")
    head, bracket, selector = rules.partition("(")
    return [name, *head.split(), *([bracket + selector] if bracket else [])]


@pytest.fixture
def stub(configured: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsStub]:
    """Put a stub in front of AWS."""
    with AwsStub(configured.aws_endpoint_url or "") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.settings(configured).aws_endpoint_url or "")
        yield server


OTHER = ["eu-west-1"]


@pytest.mark.parametrize(
    ("replicas", "consistency", "status"),
    [
        ([], None, "ok"),
        (["eu-west-1"], "STRONG", "ok"),
        (["eu-west-1"], "EVENTUAL", "fail"),
        (["eu-west-1"], None, "fail"),
    ],
)
def test_global_tables(
    replicas: list[str], consistency: str | None, status: str, stub: AwsStub, saltctl: Runner, configured: Settings
) -> None:
    """A global table must be strongly consistent; otherwise the fix deletes the replicas of other Regions."""
    table = create_client(configured, "dynamodb").describe_table(TableName=configured.backup_table)["Table"]
    described = json.loads(json.dumps(table, default=lambda at: at.timestamp()))
    region = configured.aws_region
    if replicas:
        described["Replicas"] = [{"RegionName": name, "ReplicaStatus": "ACTIVE"} for name in (region, *replicas)]
    if consistency:
        described["MultiRegionConsistency"] = consistency
    stub.rule = lambda operation, request: (200, {"Table": described}) if operation == "DescribeTable" else None
    outcome = saltctl("doctor", "--only", "backup-replication", "-o", "json")
    (check,) = outcome.json["checks"]
    assert (check["status"], outcome.code) == (status, 3 if status == "fail" else 0)
    if status == "fail":
        words = shlex.split(check["fix"])
        assert words[:3] == ["aws", "dynamodb", "update-table"]
        updates: list[dict[str, Any]] = json.loads(words[words.index("--replica-updates") + 1])
        assert updates == [{"Delete": {"RegionName": "eu-west-1"}}]


@pytest.mark.parametrize(
    ("ahead", "status", "words"),
    [(0, "ok", ""), (30, "warn", "theirs is ahead"), (-30, "warn", "ours is ahead"), (900, "fail", "theirs is ahead")],
)
def test_aws_clock(ahead: int, status: str, words: str, stub: AwsStub, saltctl: Runner) -> None:
    """The clock of AWS is read from the date of an answer; a difference in either direction is reported."""
    stub.date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
    (check,) = saltctl("doctor", "--only", "aws-clock", "-o", "json").json["checks"]
    assert (check["status"], words in check["detail"]) == (status, True)
    stub.date = "not a date"
    (check,) = saltctl("doctor", "--only", "aws-clock", "-o", "json").json["checks"]
    assert check["status"] == "skip"


@pytest.mark.parametrize("width", [20, 40, 78])
def test_a_wrapped_command_is_the_same_command(width: int) -> None:
    """At any width, the lines together are the words of the command."""
    command = """REDISCLI_AUTH="$(cat 'a  b')" redis-cli -p 1 CONFIG SET a-long-name value && saltctl rebuild 'x  y'"""
    lines = pasteable(command, width)
    joined = "\n".join(lines).replace("\\\n", "")
    assert shlex.split(joined) == shlex.split(command)
    assert width < 78 or max(map(len, lines)) <= width  # a word that is longer is not broken


FINDINGS = [
    Finding("ok", "fine", "", {"stream_lag": 12.5}, "a"),
    Finding("warn", "odd | \x1b[31m", "fix | it", {}, "b"),
    Finding("skip", "unknown", "", {}, "c"),
]


def test_nagios_output_and_exit_codes() -> None:
    """The first line has the status, and performance data after the only bar; control characters are escaped."""
    first, second = nagios(FINDINGS)[1].splitlines()
    assert first.startswith("SALTCTL WARNING - 3 checks: 1 ok, 1 warn, 0 fail, 1 skip (b) | failed=0 ")
    assert first.endswith("stream_lag=12.5")
    assert "|" not in second
    assert "\x1b" not in second
    fails = [*FINDINGS, Finding("fail", "bad", "x", {}, "d")]
    codes = [nagios(findings)[0] for findings in (FINDINGS[:1], FINDINGS, fails, FINDINGS[2:])]
    assert codes == [0, 1, 2, 3]


def test_nagios_has_no_negative_zero() -> None:
    """A clock may differ by less than a microsecond, and to the other side."""
    clock = Finding("ok", "x", "", {"offset": -0.0000001, "lead": -0.5, "count": 100.0}, "clock")
    assert nagios([clock])[1].rstrip().endswith("offset=0 lead=-0.5 count=100")


def test_prometheus_parses_the_metrics() -> None:
    """The parser of prometheus-client reads a gauge for each check and status, and the measures."""
    from prometheus_client.parser import text_string_to_metric_families

    families = {f.name: f.samples for f in text_string_to_metric_families(prometheus(FINDINGS, "t"))}
    states = {(s.labels["check"], s.labels["status"]): s.value for s in families["saltctl_doctor_check"]}
    assert states["b", "warn"] == 1
    assert sum(states.values()) == len(FINDINGS)
    (lag,) = families["saltctl_doctor_stream_lag"]
    assert (lag.labels, lag.value) == ({"table": "t"}, 12.5)


def test_a_probe_of_the_platform(saltctl: Runner, configured: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clauses are in the document and on the screen; without the option they are null."""
    outcome = saltctl("doctor", "--only", "redis-role", "--probe-platform", "-o", "json")
    assert outcome.code == 0, outcome
    assert {clause["status"] for clause in outcome.json["platform"]} == {"observed", "unknown"}
    assert set(outcome.json["platform"][0]) == {"server", "clause", "status", "detail"}
    for form in ("table", "tsv", "jsonl"):
        assert "noscript" in saltctl("doctor", "--only", "redis-role", "--probe-platform", "-o", form).out
    assert saltctl("doctor", "--only", "redis-role", "-o", "json").json["platform"] is None
    assert saltctl("doctor", "--probe-platform", "--format", "nagios").code == 2


def test_a_probe_of_a_server_that_is_away(saltctl: Runner, configured: Settings, redis_server: LocalRedis) -> None:
    """The checks are printed nevertheless."""
    redis_server.kill()
    outcome = saltctl("doctor", "--only", "redis-reachable", "--probe-platform", "-o", "json")
    assert outcome.code == 3
    assert [clause["status"] for clause in outcome.json["platform"]] == ["unknown"]
    assert [check["status"] for check in outcome.json["checks"]] == ["fail"]
