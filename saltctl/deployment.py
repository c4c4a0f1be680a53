"""Deployment files from the current settings: systemd unit, alert rules, IAM policies, Redis ACL."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from urllib.parse import unquote

from saltctl.settings import SPECS, Settings
from saltctl.urls import has_password, parse_redis_url

# No client|setinfo: Redis 7.0 does not know it and would refuse the file; redis-py works without it.
_CONNECTION = "+ping +info +hello +client|setname +select"
_STREAM = (
    "+xadd +xack +xlen +xrange +xrevrange +xreadgroup +xautoclaim +xpending +xtrim +xdel "
    "+xinfo|stream +xinfo|groups +xinfo|consumers +xgroup|create +xgroup|createconsumer +xgroup|delconsumer"
)
_CLUSTER = "+cluster|slots +asking"
# A script may run only the commands of its user: EVAL adds no permission. doctor counts entries with it.
_READING = (
    "+evalsha +eval +hget +hmget +hgetall +hlen +exists +xlen +xrange +xrevrange +xpending "
    "+xinfo|stream +xinfo|groups +xinfo|consumers"
)
_REGISTRY = "+evalsha +eval +script|load +hget +hmget +hgetall +hlen +hset +hsetnx +hdel +exists +expire"
_READ_TABLE = "DescribeTable GetItem BatchGetItem Query Scan DescribeContinuousBackups DescribeContributorInsights"
# These actions support no resources (documented).
_METRICS = (
    "cloudwatch:GetMetricData cloudwatch:GetInsightRuleReport cloudwatch:DescribeAlarms "
    "cloudwatch:ListTagsForResource dynamodb:ListTables"
)
_CHANGE_ALARMS = "cloudwatch:PutMetricAlarm cloudwatch:TagResource cloudwatch:DeleteAlarms"
_SERVICE_SETTINGS = (
    *("redis_url", "backup_table", "key_prefix", "buckets", "registry_id", "max_n_cap", "wps_per_salt", "heat_max_age"),
    *("heat_retention", "aws_region", "redis_iam", "redis_iam_cache"),
)


def systemd(settings: Settings) -> str:
    """Return a unit template; start its instances as saltctl-service@1, saltctl-service@2 and so on."""
    lines = []
    for spec in SPECS:
        value = getattr(settings, spec.name)
        secret = spec.name == "redis_url" and (not value or has_password(value))
        if spec.name in _SERVICE_SETTINGS and value is not None and not secret:
            lines.append(f"Environment={spec.environment[0]}={str(value).replace('%', '%%')}")  # systemd expands %
    return f"""# /etc/systemd/system/saltctl-service@.service
[Unit]
Description=saltctl hot partition service (instance %i)
After=network-online.target
Wants=network-online.target

[Service]
{chr(10).join(lines)}
# Secrets, such as SALTCTL_REDIS_URL with its password: mode 0600
EnvironmentFile=-/etc/saltctl/service.env
ExecStart=/usr/bin/env saltctl service run --consumer %H-%i --health-file %t/saltctl-%i/health
RuntimeDirectory=saltctl-%i
Restart=always
RestartSec=2
TimeoutStopSec=30
DynamicUser=yes
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


def alerts(settings: Settings) -> str:
    """Return Prometheus alerting rules for the metrics of ``service run --metrics-port``."""
    rules = (
        ("SaltctlServiceDown", "sum(up{job=~'saltctl.*'}) == 0 or absent(up{job=~'saltctl.*'})", "1m", "critical",
         "No hot partition service runs: new hot conversations are not detected", "saltctl service status",
         "service-down"),
        ("SaltctlRedisUnverified", "min(saltctl_registry_verified) == 0", "1m", "critical",
         "The registry in Redis is not verified: every lookup asks the backup", "saltctl rebuild", "redis-restarted"),
        ("SaltctlStreamLagging", "max(saltctl_stream_lag) > 10000 and deriv(saltctl_stream_lag[5m]) >= 0", "5m",
         "warning", "The heat stream grows faster than it is read", "saltctl stream status", "stream-backlog"),
        ("SaltctlStreamStalled", "max(saltctl_stream_lag) > 0 and sum(rate(saltctl_reports_total[2m])) == 0", "2m",
         "critical", "Heat reports wait, and the service handles none of them", "saltctl stream status",
         "stream-backlog"),
        ("SaltctlBackingOff", "max(saltctl_back_off_seconds) > 0", "2m", "warning",
         "The service backs off: DynamoDB or Redis fails", "saltctl service status", "service-down"),
        ("SaltctlPartLate", "max by (part) (saltctl_part_late) > 0", "1m", "critical",
         "A part of the service has not done its work for a while; its log says why", "saltctl service status",
         "service-down"),
        ("SaltctlUnexpectedErrors", "increase(saltctl_unexpected_errors_total[10m]) > 0", "0m", "warning",
         "The service met exceptions that it does not know; its log has their types", "saltctl service status",
         "service-down"),
        ("SaltctlEntriesLost", "increase(saltctl_lost_total[10m]) > 0", "0m", "critical",
         "Entries of the heat stream were trimmed before they were handled", "saltctl stream status", "stream-backlog"),
        ("SaltctlClamped", "increase(saltctl_clamped_total[10m]) > 0", "0m", "warning",
         f"A conversation needs more than the cap of {settings.max_n_cap} salts", "saltctl registry list --sort n",
         "throttled"),
        ("SaltctlDeadLetters", "increase(saltctl_dead_letters_total[10m]) > 0", "0m", "warning",
         "Entries of the heat stream could not be handled", "saltctl stream dead list", "stream-backlog"),
    )  # fmt: skip
    text = "groups:\n  - name: saltctl\n    rules:\n"
    for name, expression, lasting, severity, summary, command, topic in rules:
        text += (
            f"      - alert: {name}\n        expr: {json.dumps(expression)}\n        for: {lasting}\n"
            f"        labels:\n          severity: {severity}\n"
            f"        annotations:\n          summary: {json.dumps(summary)}\n"
            f"          command: {json.dumps(command)}\n"
            f"          runbook: saltctl help {topic}\n"
        )
    return text


def iam(settings: Settings) -> str:
    """Return IAM policies for application servers, the service, read-only users and alarm creation, in one document.

    None of them may PutItem, DeleteItem or BatchWriteItem on the backup table: those could lower max_n.
    """
    region = settings.aws_region or "*"
    backup = f"arn:aws:dynamodb:{region}:*:table/{settings.backup_table}"
    messages = f"arn:aws:dynamodb:{region}:*:table/{settings.messages_table}"
    grants: dict[str, list[tuple[str, str | list[str]]]] = {
        "saltctl-app": [
            ("DescribeTable GetItem BatchGetItem", backup),
            ("DescribeTable Query GetItem PutItem", messages),
        ],
        "saltctl-service": [("DescribeTable GetItem BatchGetItem UpdateItem Scan", backup)],
        "saltctl-readonly": [
            (_READ_TABLE, backup),
            (_READ_TABLE, messages),
            ("DescribeContributorInsights", f"{messages}/index/*"),
            (_METRICS, "*"),
        ],
        "saltctl-alarms": [
            ("DescribeTable", messages),
            ("cloudwatch:DescribeAlarms cloudwatch:ListTagsForResource", "*"),
            (_CHANGE_ALARMS, f"arn:aws:cloudwatch:{region}:*:alarm:saltctl/*"),
        ],
    }
    for name in ("saltctl-app", "saltctl-service", "saltctl-readonly"):
        grants[name] += _login(settings, region)
    return json.dumps({name: _policy(grants[name]) for name in grants}, indent=2) + "\n"


_CACHES = {
    "elasticache": ("elasticache", ":", "replicationgroup"),
    "elasticache-serverless": ("elasticache", ":", "serverlesscache"),
    "memorydb": ("memorydb", "/", "cluster"),
}
"""By ``redis_iam``: the service, and two parts of the ARN of a cache (documented)."""


def _login(settings: Settings, region: str) -> list[tuple[str, str | list[str]]]:
    """Return the grant to log in to Redis as the user of the URL; none without IAM authentication."""
    if settings.redis_iam is None:
        return []
    service, separator, kind = _CACHES[settings.redis_iam]
    user = unquote(parse_redis_url(settings.redis_url).userinfo) if settings.redis_url else ""
    names = {kind: (settings.redis_iam_cache or "*").lower(), "user": user or "*"}
    arns = [f"arn:aws:{service}:{region}:*:{part}{separator}{name}" for part, name in names.items()]
    return [(f"{service}:Connect", arns)]


def _policy(grants: Sequence[tuple[str, str | list[str]]]) -> dict[str, object]:
    """Return a policy that allows actions on resources. Actions without a service are DynamoDB's."""
    statements = [
        {
            "Effect": "Allow",
            "Action": [action if ":" in action else f"dynamodb:{action}" for action in actions.split()],
            "Resource": resource,
        }
        for actions, resource in grants
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def acl(settings: Settings) -> str:
    """Return Redis ACL users as lines of an ACL file, with a placeholder for each password.

    Application servers cannot load scripts, so that none of them can verify a server by mistake. They can write
    only to the heat stream. The service can rebuild; people and cron jobs that change something use its user.
    The read-only user has fewer commands. In a cluster, each node needs the file, and all users may read the slots.
    """
    prefix = settings.key_prefix
    start = "on resetpass resetkeys resetchannels -@all"
    clustered = (settings.redis_url or "").partition("://")[0].lower().endswith("+cluster")
    connection = f"{_CONNECTION} {_CLUSTER}" if clustered else _CONNECTION
    own = " ".join(f"~{prefix}:{key}" for key in ("r:*", "heat", "dead", "sum:*", "service"))
    return (
        f"user saltctl-app {start} >CHANGE-ME-1 {connection} +evalsha +hmget ~{prefix}:r:* (+xadd ~{prefix}:heat)\n"
        f"user saltctl-service {start} >CHANGE-ME-2 {connection} {_REGISTRY} {_STREAM} {own}\n"
        f"user saltctl-readonly {start} >CHANGE-ME-3 {connection} {_READING} {own}\n"
    )


KINDS: dict[str, Callable[[Settings], str]] = {"systemd": systemd, "alerts": alerts, "iam": iam, "acl": acl}
