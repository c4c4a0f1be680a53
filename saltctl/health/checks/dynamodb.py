"""Checks of DynamoDB: the backup table, which is the truth, and the messages table."""

from __future__ import annotations

import json
from typing import Any

from saltctl.errors import AccessDeniedError, ConfigurationError, SaltctlError, UnavailableError
from saltctl.health.checks.redis import skewed
from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, combine, fail, ok, skip, warn
from saltctl.rebuild.lease import LEASE_EXPIRY
from saltctl.urls import is_loopback


def backup_table(facts: Facts) -> Finding:
    """The backup table is there, answers, and has the right keys."""
    name = facts.settings.backup_table
    try:
        table = facts.backup_table
    except SaltctlError as exc:
        return fail(exc.message, _way_out(facts, exc, facts.fix_commands.saltctl("setup")))
    if table.get("TableStatus") not in ("ACTIVE", "UPDATING"):
        detail = f"table {name!r} is {table.get('TableStatus')}"
        return fail(detail, facts.fix_commands.aws("dynamodb", "wait", "table-exists", "--table-name", name))
    try:
        facts.backup.check_table()
    except ConfigurationError as exc:
        return fail(exc.message, facts.fix_commands.saltctl("config", "show"))
    return ok(f"{name}, {int(table.get('ItemCount', 0)):,} items some hours ago")


def _way_out(facts: Facts, exc: SaltctlError, missing: str) -> str:
    """The command to try where a table cannot be had: another one for each reason."""
    if isinstance(exc, ConfigurationError) and exc.message.startswith("there is no DynamoDB table"):
        return missing
    if isinstance(exc, AccessDeniedError):
        return facts.fix_commands.aws("sts", "get-caller-identity")
    return facts.fix_commands.saltctl("config", "show")


def backup_recovery(facts: Facts) -> Finding:
    """The backup table can be restored to a point in time."""
    name = facts.settings.backup_table
    _ = facts.backup_table
    if facts.aws.point_in_time_recovery(name):
        return ok("point-in-time recovery is on")
    return warn(
        f"table {name!r} cannot be restored to a point in time: point-in-time recovery is off",
        facts.fix_commands.aws(
            *("dynamodb", "update-continuous-backups", "--table-name", name),
            *("--point-in-time-recovery-specification", "PointInTimeRecoveryEnabled=true"),
        ),
    )


def backup_protection(facts: Facts) -> Finding:
    """Nobody deletes the backup table by mistake."""
    name = facts.settings.backup_table
    if facts.backup_table.get("DeletionProtectionEnabled"):
        return ok("deletion protection is on")
    return warn(
        f"table {name!r} can be deleted by mistake: its deletion protection is off",
        facts.fix_commands.aws("dynamodb", "update-table", "--table-name", name, "--deletion-protection-enabled"),
    )


def backup_billing(facts: Facts) -> Finding:
    """The backup table can take every lookup of an outage, and a rebuild beside them."""
    name = facts.settings.backup_table
    table = facts.backup_table
    if table.get("BillingModeSummary", {}).get("BillingMode") == "PAY_PER_REQUEST":
        return ok("on demand")
    capacity = table.get("ProvisionedThroughput", {})
    return warn(
        f"table {name!r} has a provisioned capacity of {capacity.get('ReadCapacityUnits', 0):,} RCU and "
        f"{capacity.get('WriteCapacityUnits', 0):,} WCU: when Redis is down every lookup reads it",
        facts.fix_commands.aws("dynamodb", "update-table", "--table-name", name, "--billing-mode", "PAY_PER_REQUEST"),
    )


def backup_replication(facts: Facts) -> Finding:
    """Conditions on the backup table are checked against every Region's writes."""
    name = facts.settings.backup_table
    table = facts.backup_table
    replicas = [str(replica.get("RegionName")) for replica in table.get("Replicas", [])]
    if not replicas:
        return ok("no global table")
    if table.get("MultiRegionConsistency") == "STRONG":
        return ok(f"a global table with strong consistency: {', '.join(replicas)}")
    ours = facts.aws.client.meta.region_name
    drop = [{"Delete": {"RegionName": region}} for region in replicas if region != ours]
    return fail(
        f"table {name!r} is a global table with eventual consistency ({', '.join(replicas)}): conditions see one "
        "Region only, so that max_n can go down and messages can vanish from histories",
        facts.fix_commands.aws("dynamodb", "update-table", "--table-name", name, "--replica-updates", json.dumps(drop)),
    )


def messages_table(facts: Facts) -> Finding:
    """The messages table is there, with keys that can be salted."""
    name = facts.settings.messages_table
    endpoint = facts.settings.aws_endpoint_url or ""
    try:
        _ = facts.messages_table
        keys = facts.messages.keys
    except SaltctlError as exc:
        # Only where it can be for trying out; a real one has its own keys and its own people.
        local = facts.fix_commands.saltctl("setup", "--messages")
        missing = local if is_loopback(endpoint) else facts.fix_commands.aws("dynamodb", "list-tables")
        return fail(exc.message, _way_out(facts, exc, missing))
    return ok(f"{name}, keys {keys.partition_key} (S) and {keys.sort_key} ({keys.sort_type})")


def lease(facts: Facts) -> Finding:
    """Nobody holds the lease who has died."""
    holder = facts.backup.lease.holder()
    if holder is None:
        return ok("free")
    age = max(facts.now() - holder.heartbeat, 0.0)
    who = f"process {holder.pid} on {holder.host}"
    if age <= LEASE_EXPIRY:
        return ok(f"{who} rebuilds ({holder.progress}; heartbeat {age:.0f} s ago)", lease_age_seconds=age)
    return warn(
        f"{who} holds the lease and has not renewed it for {age:,.0f} s: its rebuild died, and what it verified is "
        "unknown",
        facts.fix_commands.saltctl("rebuild"),
        lease_age_seconds=age,
    )


def clock(facts: Facts) -> Finding:
    """AWS' clock and ours agree: beyond five minutes it refuses every request."""
    skew = facts.aws.skew()
    if skew is None:
        return skip("its answers have no date")
    return skewed("AWS' clock", skew, facts, "aws_clock_skew_seconds")


def permissions(facts: Facts) -> Finding:
    """These credentials may do what application servers and the service have to."""
    settings = facts.settings
    findings = [_permissions(facts, settings.backup_table, facts.backup_table, backup=True)]
    try:
        findings.append(_permissions(facts, settings.messages_table, facts.messages_table, backup=False))
    except (ConfigurationError, UnavailableError) as exc:
        findings.append(skip(exc.message))
    return combine(findings)


def _permissions(facts: Facts, name: str, table: dict[str, Any], *, backup: bool) -> Finding:
    allowed = facts.aws.permitted(name, None if backup else facts.messages.keys)
    denied = [action for action, permitted in allowed.items() if not permitted]
    if denied:
        detail = f"these credentials may not {', '.join(denied)} on table {name!r}"
        return fail(detail, facts.fix_commands.saltctl("service", "emit", "iam"))
    return ok(f"{', '.join(allowed)} on {name}")
