"""Commands in front of an AWS that throttles, denies, closes connections, is slow or returns garbage.

For each: the documented exit code, an error that people and scripts can read, and no lost data.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from saltctl.deployment import iam
from saltctl.local.environment import LocalEnvironment
from saltctl.settings import Settings, load_settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from saltctl.throttling.alarms import owned_alarms
from tests.cli.commands import COMMANDS
from tests.cli.conftest import Runner
from tests.support import Rebuilder
from tests.support.aws_stub import (
    GARBAGE,
    HANG_UP,
    REASONS,
    THROTTLES,
    Answer,
    AwsStub,
    process_one_key,
    refusal,
    throttled,
)

TOPIC = "arn:aws:sns:us-east-1:123456789012:oncall"
NOT_RETRIED = (
    ("registry", "get", "conv_hot_01"),
    ("registry", "set", "conv_hot_01", "64", "--yes"),
    ("history", "read", "conv_hot_01"),
    ("history", "find", "conv_hot_01", "m1"),
    ("history", "audit", "conv_hot_01"),
    ("registry", "discover", "--cost"),
    ("setup",),
    ("throttle", "scan"),
    ("throttle", "alarms", "list"),
    ("throttle", "alarms", "create", "--sns", TOPIC),
    ("throttle", "alarms", "remove", "--yes"),
)
"""Commands that fail after a few throttled attempts."""
RETRIED = (
    ("registry", "list", "--source", "backup"),
    ("registry", "discover"),
    ("rebuild", "--dry-run"),
    ("rebuild",),
    ("compare",),
    ("compare", "--repair", "--yes"),
)
"""Scans, which retry until --timeout."""
CODES = tuple(THROTTLES)


@pytest.fixture
def stub(seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsStub]:
    """Put a stub in front of the AWS of the seeded environment. Afterwards the acknowledged data must still exist."""
    with AwsStub(seeded.moto.url) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.settings(seeded.settings).aws_endpoint_url or "")
        yield server
    entry = BackupTable(seeded.settings).get("conv_hot_01")
    assert entry is not None
    assert (entry.max_n, entry.write_n) == (2, 2)
    assert len(owned_alarms(CloudWatchMetrics(seeded.settings), seeded.settings.messages_table)) == 6


def fails(saltctl: Runner, args: tuple[str, ...], code: int) -> str:
    """Run a command that must fail with this exit code and a JSON error, and return the error's message.

    In an outage (69), `registry get` answers in part and exits 4.
    """
    outcome = saltctl(*args, "-o", "json")
    code = 4 if (code, *args[:2]) == (69, "registry", "get") else code
    assert outcome.code == code, (outcome.out, outcome.err)
    assert "Traceback" not in outcome.err
    assert outcome.error["exit_code"] == code
    assert outcome.error["hint"]
    return str(outcome.error["message"])


@pytest.mark.parametrize("args", [*NOT_RETRIED, *RETRIED], ids=" ".join)
def test_without_permission(args: tuple[str, ...], stub: AwsStub, saltctl: Runner) -> None:
    """Exit 77, without retries."""
    stub.rule = lambda operation, request: refusal("AccessDeniedException", message="User: x is not authorized")
    fails(saltctl, args, 77)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "args"), list(enumerate(NOT_RETRIED)), ids=map(" ".join, NOT_RETRIED))
def test_throttled_all_the_time(number: int, args: tuple[str, ...], stub: AwsStub, saltctl: Runner) -> None:
    """Exit 69 for every throttling error code and every form of its reasons."""
    answer = throttled(CODES[number % len(CODES)], REASONS[number % len(REASONS)])
    stub.rule = lambda operation, request: answer
    assert "throttle" in fails(saltctl, args, 69)


@pytest.mark.slow
@pytest.mark.parametrize("args", RETRIED, ids=" ".join)
def test_throttled_for_a_while(args: tuple[str, ...], stub: AwsStub, saltctl: Runner) -> None:
    """A scan that is throttled at first retries and completes."""
    stub.answer_first(2, "Scan", throttled("ProvisionedThroughputExceededException"))
    outcome = saltctl(*args)
    assert outcome.code in (0, 3), outcome.err
    assert stub.seen.count("Scan") > 2
    assert "Traceback" not in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("args", RETRIED, ids=" ".join)
def test_throttled_until_the_timeout(args: tuple[str, ...], stub: AwsStub, saltctl: Runner) -> None:
    """A scan that is always throttled ends with ``--timeout``: exit 124, and the data stays."""
    answer = throttled("ThrottlingException")
    stub.rule = lambda operation, request: answer if operation == "Scan" else None
    assert "timeout" in fails(saltctl, (*args, "--timeout", "1s"), 124)


@pytest.mark.slow
def test_an_export_that_is_throttled_for_a_while(stub: AwsStub, saltctl: Runner) -> None:
    """The export retries, and contains every entry."""
    whole = saltctl("registry", "export", "--source", "redis").out
    stub.answer_first(2, "Scan", throttled("ProvisionedThroughputExceededException"))
    assert saltctl("registry", "export", "--source", "backup").out == whole


@pytest.mark.slow
@pytest.mark.timeout(60)  # the retries of the other thread last three minutes
def test_an_import_that_is_throttled_all_the_time(stub: AwsStub, saltctl: Runner, tmp_path: Path) -> None:
    """The import retries until --timeout; no raise was started."""
    file = tmp_path / "registry.jsonl"
    file.write_text('{"conversation_id": "conv_new_1", "max_n": 4}\n')
    answer = throttled("ProvisionedThroughputExceededException")
    stub.rule = lambda operation, request: answer if operation == "UpdateItem" else None
    assert "timeout" in fails(saltctl, ("registry", "import", str(file), "--yes", "--timeout", "2s"), 124)
    stub.rule = lambda operation, request: None
    assert saltctl("registry", "get", "conv_new_1", "-o", "json").json[0]["max_n"] == 1


@pytest.mark.slow
def test_a_replay_that_is_throttled_all_the_time(
    configured: Settings, rebuild: Rebuilder, saltctl: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The raise fails and its report is not acknowledged; once AWS recovers the same command raises."""
    rebuild()
    stream = HeatStream(configured)
    stream.create_group()
    stream.append_reports([HeatReport("hot", "app-1", int(time.time()), 2000)])
    with AwsStub(configured.aws_endpoint_url or "") as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.settings(configured).aws_endpoint_url or "")
        answer = throttled("ProvisionedThroughputExceededException")
        aws.rule = lambda operation, request: answer if operation == "UpdateItem" else None
        assert "throttle" in fails(saltctl, ("stream", "replay"), 69)
        aws.rule = lambda operation, request: None
        report = saltctl("stream", "replay", "-o", "json").json
    assert [entry["after"] for entry in report["raises"]] == [4]
    stream.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "code"),
    [(refusal("InternalServerError", 500), 69), (HANG_UP, 69), (GARBAGE, 69), (refusal("ExpiredTokenException"), 77)],
    ids=["500", "hang-up", "garbage", "expired"],
)
@pytest.mark.parametrize("args", [NOT_RETRIED[0], NOT_RETRIED[2], NOT_RETRIED[7]], ids=" ".join)
def test_broken_answers(args: tuple[str, ...], answer: Answer, code: int, stub: AwsStub, saltctl: Runner) -> None:
    """A broken answer is an outage, never an empty result."""
    stub.rule = lambda operation, request: answer
    fails(saltctl, args, code)


@pytest.mark.slow
@pytest.mark.parametrize("args", [NOT_RETRIED[0], NOT_RETRIED[7]], ids=" ".join)
def test_a_slow_answer(args: tuple[str, ...], stub: AwsStub, saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 69 after the timeout from the settings."""
    monkeypatch.setenv("SALTCTL_AWS_TIMEOUT", "0.1")
    stub.delay = 5.0
    fails(saltctl, args, 69)


def test_unprocessed_keys_are_requested_again(stub: AwsStub, saltctl: Runner) -> None:
    """DynamoDB processes one key of each batch: all conversations are shown nevertheless."""
    stub.narrow = process_one_key
    ids = ["conv_hot_01", "conv_hot_05", "conv_hot_12"]
    outcome = saltctl("registry", "get", *ids, "-o", "json")
    assert outcome.code == 0, outcome.err
    assert [(record["conversation_id"], record["backup_n"]) for record in outcome.json] == [
        ("conv_hot_01", 2),
        ("conv_hot_05", 4),
        ("conv_hot_12", 16),
    ]
    assert stub.seen.count("BatchGetItem") == 4  # the identity of the registry is a key, too


@pytest.mark.slow
def test_a_throttle_scan_without_cloudwatch(stub: AwsStub, saltctl: Runner) -> None:
    """Exit 77 without CloudWatch: the document has the service's state, no-data, and null for unknown values."""
    stub.rule = lambda operation, request: refusal("AccessDeniedException") if "Metric" in operation else None
    outcome = saltctl("throttle", "scan", "-o", "json")
    assert outcome.code == 77
    assert outcome.json["verdict"] == "no-data"
    assert (outcome.json["throttled"], outcome.json["total"]) == (None, None)
    assert outcome.json["service"]["verdict"] == "stopped"
    assert any("service is stopped" in reason for reason in outcome.json["reasons"])
    assert outcome.error["code"] == "access_denied"


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer", [refusal("AccessDeniedException"), HANG_UP, GARBAGE], ids=["denied", "hang-up", "garbage"]
)
@pytest.mark.parametrize(("name", "code"), [("doctor", 3), ("status", 0)])
def test_doctor_and_status_without_aws(name: str, code: int, answer: Answer, stub: AwsStub, saltctl: Runner) -> None:
    """AWS is one source of several: its failure is part of the answer and does not stop the command."""
    stub.rule = lambda operation, request: answer
    outcome = saltctl(name, "-o", "json")
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    assert "AWS" in outcome.out
    assert outcome.json


EVERY = list(dict.fromkeys((*c.name.split(), *c.args) for c in COMMANDS if not c.slow and c.name != "local load"))
DOCUMENTED = {0, 3, 4, 6, 69, 75, 77, 78}


@pytest.mark.slow
@pytest.mark.parametrize("answer", [refusal("AccessDeniedException"), GARBAGE], ids=["denied", "page"])
def test_every_command_ends_as_documented(answer: Answer, stub: AwsStub, saltctl: Runner) -> None:
    """Every command of the contract has a documented exit code when AWS denies access or returns an HTML page."""
    stub.rule = lambda operation, request: answer
    for args in EVERY:
        outcome = saltctl(*args)
        assert outcome.code in DOCUMENTED, f"{args}: {outcome}"
        assert "Traceback" not in outcome.err
        assert outcome.code in (0, 3) or outcome.err


READ_ONLY = (
    ("status",),
    ("doctor",),
    ("compare",),
    ("throttle", "scan"),
    ("throttle", "alarms", "list"),
    ("registry", "get", "conv_hot_01"),
    ("registry", "list", "--source", "backup"),
    ("registry", "discover"),
    ("history", "read", "conv_hot_01"),
    ("history", "find", "conv_hot_01", "m1"),
    ("history", "audit", "conv_hot_01"),
)
ALARMS = (("throttle", "alarms", "list"), ("throttle", "alarms", "create", "--sns", TOPIC))
AUDIT = (("history", "audit", "--all", "--for", "1ms"),)
PROBES = {"UpdateItem", "PutItem"}
"""Operations that doctor uses to test permissions; a read-only role does not have them."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "commands", "extra"),
    [("saltctl-readonly", READ_ONLY, PROBES), ("saltctl-audit", AUDIT, set()), ("saltctl-alarms", ALARMS, set())],
)
def test_a_role_allows_its_commands(
    role: str,
    commands: tuple[tuple[str, ...], ...],
    extra: set[str],
    stub: AwsStub,
    saltctl: Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The emitted policy allows every operation that the commands sent to the stub."""
    monkeypatch.setenv("SALTCTL_MAX_N_CAP", "32")  # an audit queries each of these partitions
    for args in commands:
        saltctl(*args)
    policy = json.loads(iam.document(load_settings(), role))
    allowed = {action.partition(":")[2] for statement in policy["Statement"] for action in statement["Action"]}
    assert {"DescribeTable"} < set(stub.seen)
    assert set(stub.seen) - extra <= allowed


class MeteredScans:
    """A backup table that charges 0.1 read units for each item, and records when they were read."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.read: list[tuple[float, float]] = []
        self._lock = threading.Lock()

    def rule(self, operation: str, request: dict[str, Any]) -> Answer:
        """Answer Scans, and leave the rest to moto."""
        if operation != "Scan":
            return None
        start = int(request.get("ExclusiveStartKey", {}).get("conversation_id", {"S": "c-1"})["S"][1:]) + 1
        end = min(start + request.get("Limit", 500), self.items)
        number = {"N": "2"}
        found = [{"conversation_id": {"S": f"c{at}"}, "max_n": number, "write_n": number} for at in range(start, end)]
        units = len(found) / 10
        with self._lock:
            self.read.append((time.monotonic(), units))
        last = {"LastEvaluatedKey": {"conversation_id": {"S": f"c{end - 1}"}}} if end < self.items else {}
        return 200, {
            "Items": found,
            "ConsumedCapacity": {"TableName": request["TableName"], "CapacityUnits": units},
        } | last


@pytest.mark.slow
def test_max_rcu_limits_consumed_capacity(
    saltctl: Runner, configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two answers at most --max-rcu was consumed, plus one second's worth and a page."""
    table, max_rcu = MeteredScans(2000), 80
    with AwsStub(configured.aws_endpoint_url or "") as stub:
        stub.rule = table.rule
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.settings(configured).aws_endpoint_url or "")
        outcome = saltctl("rebuild", "--segments", "1", "--max-rcu", str(max_rcu), "-o", "json")
        assert outcome.code == 0, outcome.err
        report = outcome.json
    assert report["verified"]
    assert report["entries"] == table.items
    assert report["consumed_rcu"] == sum(units for _, units in table.read) == table.items / 10
    pages = len(table.read)
    assert pages > 4
    page = max(units for _, units in table.read)
    for first, last in combinations(range(pages), 2):
        read = sum(units for _, units in table.read[first : last + 1])
        passed = table.read[last][0] - table.read[first][0]
        assert read <= max_rcu * (passed + 1.0) + 2 * page
    listed = saltctl("registry", "list", "--source", "redis", "--limit", "5000", "-o", "json")
    assert listed.code == 0, listed.err
    found = listed.json
    assert len(found) == table.items
