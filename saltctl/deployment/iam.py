"""IAM policies with least privilege, one a role."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from saltctl.canary.conversations import RESERVED
from saltctl.settings import Settings
from saltctl.stores.audit_item import AUDIT_ID
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID
from saltctl.urls import parse_redis_url

ROLES = ("saltctl-app", "saltctl-service", "saltctl-readonly", "saltctl-canary", "saltctl-audit", "saltctl-alarms")
_READ_TABLE = "DescribeTable GetItem BatchGetItem Query Scan DescribeContinuousBackups DescribeContributorInsights"
# These actions support no resources (documented).
_METRICS = (
    "cloudwatch:GetMetricData cloudwatch:GetInsightRuleReport cloudwatch:DescribeAlarms "
    "cloudwatch:ListTagsForResource dynamodb:ListTables"
)
_CHANGE_ALARMS = "cloudwatch:PutMetricAlarm cloudwatch:TagResource cloudwatch:DeleteAlarms"
Grant = tuple[str, str | list[str]] | tuple[str, str | list[str], Sequence[str]]
"""Actions, resources, and the partition keys of the items if they are not all."""


def document(settings: Settings, role: str | None = None) -> str:
    """Return the policy of a role, as ``aws iam create-policy`` takes it; without a role all of them by their names."""
    found = policies(settings)
    return json.dumps(found if role is None else found[role], indent=2) + "\n"


def policies(settings: Settings) -> dict[str, dict[str, object]]:
    """Return the policies of application servers, the service, read-only users, canary, audit and alarms, by role.

    None of them may PutItem, DeleteItem or BatchWriteItem on the backup table: those could lower max_n. The canary may
    write to the reserved conversations alone, and the audit to its own item.
    """
    region = settings.aws_region or "*"
    backup = f"arn:aws:dynamodb:{region}:*:table/{settings.backup_table}"
    messages = f"arn:aws:dynamodb:{region}:*:table/{settings.messages_table}"
    rows = [key for name in RESERVED for key in (name, f"{name}#*")]
    grants: dict[str, list[Grant]] = {
        "saltctl-app": [
            ("DescribeTable GetItem BatchGetItem", backup),
            ("DescribeTable Query GetItem PutItem", messages),
        ],
        "saltctl-service": [
            ("DescribeTable GetItem BatchGetItem UpdateItem Scan", backup),
            ("DescribeTable Query", messages),  # a cool-down reads the newest messages
        ],
        "saltctl-readonly": [
            (_READ_TABLE, backup),
            (_READ_TABLE, messages),
            ("DescribeContributorInsights", f"{messages}/index/*"),
            (_METRICS, "*"),
        ],
        "saltctl-canary": [
            ("DescribeTable", [backup, messages]),
            ("GetItem BatchGetItem", backup, [REGISTRY_ITEM_ID, *RESERVED]),
            ("UpdateItem", backup, RESERVED),
            ("Query GetItem PutItem DeleteItem", messages, rows),
        ],
        "saltctl-audit": [
            ("DescribeTable GetItem BatchGetItem Scan", backup),
            ("UpdateItem", backup, [AUDIT_ID]),
            ("DescribeTable Query Scan", messages),
        ],
        "saltctl-alarms": [
            ("DescribeTable", messages),
            ("cloudwatch:DescribeAlarms cloudwatch:ListTagsForResource", "*"),
            (_CHANGE_ALARMS, f"arn:aws:cloudwatch:{region}:*:alarm:saltctl/*"),
        ],
    }
    for name in ("saltctl-app", "saltctl-service", "saltctl-readonly", "saltctl-canary", "saltctl-audit"):
        grants[name] += _login(settings, region)
    return {name: _policy(grants[name]) for name in grants}


_CACHES = {
    "elasticache": ("elasticache", ":", "replicationgroup"),
    "elasticache-serverless": ("elasticache", ":", "serverlesscache"),
    "memorydb": ("memorydb", "/", "cluster"),
}
"""By ``redis_iam``: the service, and two parts of the ARN of a cache (documented)."""


def _login(settings: Settings, region: str) -> list[Grant]:
    """Return the grant to log in to Redis as the user of the URL; none without IAM authentication."""
    if settings.redis_iam is None:
        return []
    service, separator, kind = _CACHES[settings.redis_iam]
    user = unquote(parse_redis_url(settings.redis_url).userinfo) if settings.redis_url else ""
    names = {kind: (settings.redis_iam_cache or "*").lower(), "user": user or "*"}
    arns = [f"arn:aws:{service}:{region}:*:{part}{separator}{name}" for part, name in names.items()]
    return [(f"{service}:Connect", arns)]


def _policy(grants: Sequence[Grant]) -> dict[str, object]:
    """Return a policy that allows actions on resources. Actions without a service are DynamoDB's."""
    return {"Version": "2012-10-17", "Statement": [_statement(*grant) for grant in grants]}


def _statement(actions: str, resource: str | list[str], keys: Sequence[str] = ()) -> dict[str, Any]:
    """Return a statement; with ``keys`` it is about items of these partition keys alone, in which ``*`` is any text.

    The condition covers every action that names keys, and not Scan, which would be allowed (documented).
    """
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Action": [action if ":" in action else f"dynamodb:{action}" for action in actions.split()],
        "Resource": resource,
    }
    if keys:
        statement["Condition"] = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": [*keys]}}
    return statement
