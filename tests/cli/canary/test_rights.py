"""The canary with the emitted rights alone: DynamoDB as the IAM policy has it, and Redis as the ACL has it."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest

from saltctl.canary.conversations import BOUND, RESERVED
from saltctl.deployment import iam
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import PARTITION_KEY
from tests.cli.conftest import Runner
from tests.cli.detection.test_service import Roles
from tests.support import Rebuilder
from tests.support.aws_stub import Answer, AwsStub, refusal


def partition_keys(operation: str, request: dict[str, Any]) -> list[str]:
    """Return the partition keys that a request names, as dynamodb:LeadingKeys has them."""
    if operation == "BatchGetItem":
        return [key[KEY]["S"] for table in request["RequestItems"].values() for key in table["Keys"]]
    if operation == "Query":
        return [request["ExpressionAttributeValues"][":saltctl_p"]["S"]]
    item = request.get("Item") or request["Key"]
    return [next(item[name]["S"] for name in (KEY, PARTITION_KEY) if name in item)]


class Policy:
    """Answers as IAM does: what no statement allows is refused."""

    def __init__(self, settings: Settings, role: str) -> None:
        policy: Any = iam.policies(settings)[role]
        self.statements = policy["Statement"]
        self.refused: list[str] = []

    def rule(self, operation: str, request: dict[str, Any]) -> Answer:
        """Refuse a request, or leave it to moto."""
        [table] = request.get("RequestItems", {request.get("TableName"): 0})
        if any(self.allows(statement, operation, str(table), request) for statement in self.statements):
            return None
        self.refused.append(f"{operation} {request}")
        return refusal("AccessDeniedException")

    def allows(self, statement: dict[str, Any], operation: str, table: str, request: dict[str, Any]) -> bool:
        """Return whether a statement allows the request."""
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        if f"dynamodb:{operation}" not in statement["Action"] or not any(r.endswith(f"/{table}") for r in resources):
            return False
        if "Condition" not in statement:
            return True
        allowed = statement["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"]
        found = partition_keys(operation, request)
        assert found
        return all(any(fnmatchcase(key, pattern) for pattern in allowed) for key in found)


@pytest.fixture
def policy(configured: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Policy]:
    """A DynamoDB for the canary's role alone."""
    with AwsStub(configured.aws_endpoint_url or "") as stub:
        policy = Policy(configured, "saltctl-canary")
        stub.rule = policy.rule
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.url)
        yield policy


@pytest.mark.slow
def test_the_rights_of_its_role_are_enough(
    configured: Settings,
    registry: Registry,
    backup: BackupTable,
    rebuild: Rebuilder,
    redis_server: LocalRedis,
    saltctl: Runner,
    policy: Policy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No check of a round is refused, but that of rebuilds, which load scripts."""
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", configured.aws_endpoint_url or "")
        assert saltctl("setup", "--messages").code == 0
    rebuild()
    registry.raise_to(RESERVED[0], BOUND)
    backup.allow_cooling()
    monkeypatch.setenv("SALTCTL_REDIS_URL", Roles(configured, redis_server).of("canary").require_redis_url())
    outcome = saltctl("canary", "-o", "json")
    assert outcome.code == 0, (outcome, policy.refused)
    assert not policy.refused
    checks = {check["name"]: check for check in outcome.json["checks"]}
    assert checks["cool"]["detail"] == f"{RESERVED[0]} is narrowed"
    assert [name for name, check in checks.items() if not check["ok"]] == ["late-merge"]
