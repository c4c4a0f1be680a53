"""The IAM policies: least privilege, one a role, as AWS takes them."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from saltctl.canary.conversations import RESERVED
from saltctl.deployment.iam import ROLES, document, policies
from saltctl.deployment.systemd import unit
from saltctl.local.servers import LocalMoto
from saltctl.settings import Settings
from saltctl.stores.audit_item import AUDIT_ID

SETTINGS = Settings(backup_table="mine", aws_region="eu-x-1")
MOST_CHARACTERS = 6144
"""Of a managed policy, without white space (documented)."""


def test_the_policies_follow_the_settings() -> None:
    """They name the table and the Region. None of them may lower an N by writing whole items of the backup."""
    found: dict[str, Any] = policies(SETTINGS)
    assert tuple(found) == ROLES
    assert "arn:aws:dynamodb:eu-x-1:*:table/mine" in json.dumps(found["saltctl-service"])
    for policy in found.values():
        for statement in policy["Statement"]:
            if str(statement["Resource"]).endswith("/mine"):
                assert not {"PutItem", "DeleteItem", "BatchWriteItem"} & {a.split(":")[1] for a in statement["Action"]}


def test_the_canary_may_write_to_the_reserved_conversations_alone() -> None:
    """Whatever it may do to items is bound to their partition keys. No action ignores those, as Scan does."""
    policy: Any = policies(SETTINGS)["saltctl-canary"]
    keys: dict[str, list[str]] = {}
    for statement in policy["Statement"]:
        actions = {action.split(":")[1] for action in statement["Action"]}
        assert not {"Scan", "PartiQLSelect", "BatchWriteItem"} & actions
        if actions != {"DescribeTable"}:
            bound = statement["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"]
            keys |= {f"{action} {statement['Resource'].rpartition('/')[2]}": bound for action in actions}
    assert keys["UpdateItem mine"] == list(RESERVED)
    assert keys["GetItem mine"] == ["#registry", *RESERVED]
    for action in ("Query", "GetItem", "PutItem", "DeleteItem"):
        assert [key.removesuffix("#*") for key in keys[f"{action} messages"]] == [n for n in RESERVED for _ in range(2)]


def test_the_audit_writes_its_own_item_alone() -> None:
    """Its rights do not let it raise or lower an N."""
    policy: Any = policies(SETTINGS)["saltctl-audit"]
    (writing,) = [one for one in policy["Statement"] if "dynamodb:UpdateItem" in one["Action"]]
    assert writing["Action"] == ["dynamodb:UpdateItem"]
    assert writing["Condition"] == {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": [AUDIT_ID]}}


def test_a_role_is_a_document_of_its_own() -> None:
    """Without a role the document has the policy of each role under its name."""
    together = json.loads(document(SETTINGS))
    assert tuple(together) == ROLES
    for role in ROLES:
        assert json.loads(document(SETTINGS, role)) == together[role]
        assert set(together[role]) == {"Version", "Statement"}


@pytest.mark.parametrize("kind", [None, "elasticache", "elasticache-serverless", "memorydb"])
@pytest.mark.parametrize("role", ROLES)
def test_aws_takes_the_document_of_a_role(kind: Any, role: str, moto: LocalMoto) -> None:
    """As ``create-policy`` gets it; that of all roles together is refused, so the check is one."""
    import boto3
    from botocore.exceptions import ClientError

    settings = replace(SETTINGS, redis_url="rediss://app@cache/0", redis_iam=kind)
    client = boto3.client(
        "iam",
        region_name="us-east-1",
        endpoint_url=moto.url,
        aws_access_key_id="x",
        aws_secret_access_key="x",  # noqa: S106  moto takes any
    )
    text = document(settings, role)
    created = client.create_policy(PolicyName=f"{role}-{uuid.uuid4()}", PolicyDocument=text)["Policy"]
    version = client.get_policy_version(PolicyArn=created["Arn"], VersionId="v1")["PolicyVersion"]
    assert version["Document"] == json.loads(text)
    assert len("".join(text.split())) <= MOST_CHARACTERS
    with pytest.raises(ClientError, match="MalformedPolicyDocument"):
        client.create_policy(PolicyName=f"all-{uuid.uuid4()}", PolicyDocument=document(settings))


@pytest.mark.parametrize(
    ("kind", "action", "cache", "user"),
    [
        ("elasticache", "elasticache:Connect", "elasticache:eu-x-1:*:replicationgroup:", "elasticache:eu-x-1:*:user:"),
        (
            "elasticache-serverless",
            "elasticache:Connect",
            "elasticache:eu-x-1:*:serverlesscache:",
            "elasticache:eu-x-1:*:user:",
        ),
        ("memorydb", "memorydb:Connect", "memorydb:eu-x-1:*:cluster/", "memorydb:eu-x-1:*:user/"),
    ],
)
def test_iam_policies_permit_the_login(kind: str, action: str, cache: str, user: str) -> None:
    """All roles that use Redis may log in to the cache as the user of the URL, by the ARNs that AWS documents."""
    given: dict[str, Any] = {"redis_iam": kind, "redis_iam_cache": "My-Cache", "aws_region": "eu-x-1"}
    settings = Settings(redis_url="rediss://the%2Dapp@cache/0", **given)
    assert f"SALTCTL_REDIS_IAM={kind}\n" in unit(settings, ["/usr/bin/saltctl"])
    found: dict[str, Any] = policies(settings)
    login = {"Effect": "Allow", "Action": [action], "Resource": [f"arn:aws:{cache}my-cache", f"arn:aws:{user}the-app"]}
    assert {name for name, policy in found.items() if login in policy["Statement"]} == {
        *("saltctl-app", "saltctl-service", "saltctl-readonly", "saltctl-canary", "saltctl-audit")
    }
    assert "Connect" not in document(Settings())
