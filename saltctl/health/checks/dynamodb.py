"""Checks of DynamoDB: the backup table and its drift, the messages table, permissions, clock and throttling."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Mapping
from typing import Any

from saltctl.commands import command_line, first_commands, is_command, with_root_options
from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    BackupLostError,
    ConfigurationError,
    SaltctlError,
    UnavailableError,
)
from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, clock_skew, combine, fail, ok, skip, warn
from saltctl.rebuild.lease import LEASE_EXPIRY
from saltctl.registry.compare import compare_sample
from saltctl.salting import split_partition_key
from saltctl.stores.aws.failures.errors import NEW_OR_LOST
from saltctl.stores.aws.table import Table
from saltctl.stores.contracts.messages import TableKeys
from saltctl.stores.contracts.registry import DamagedEntry
from saltctl.throttling.scan import scan_recent
from saltctl.urls import is_loopback

THROTTLE_MINUTES = 15


def backup_table(facts: Facts) -> Finding:
    """The backup table exists, answers, and has the right keys."""
    name, commands = facts.settings.backup_table, facts.fix_commands
    try:
        table = facts.describe(facts.backup)
    except SaltctlError as exc:
        return _unreachable(facts, exc, name)
    if table is None:
        missing = f"{facts.backup.missing().message} (AWS_REGION)"
        if facts.redis_was_verified:
            lost = f"{missing}, but Redis was verified from a backup table: check the Region and the name first"
            fixes = commands.saltctl("config", "show"), commands.saltctl("recover", "--dry-run")
            return fail(lost, " && ".join(fixes))
        return fail(missing, _new_or_lost(facts))
    if found := _not_ready(facts, name, table):
        return found
    try:
        facts.backup.check_table()
    except ConfigurationError as exc:
        return fail(exc.message, commands.saltctl("config", "show"))
    items = int(table.get("ItemCount", 0))
    return ok(f"{name}, {f'about {items:,} items' if items else 'whose items are not counted yet'}")


def _new_or_lost(facts: Facts) -> str:
    """Return the command that sets up a new registry, if messages can show that there was none; else a recovery."""
    try:
        seen = facts.describe(facts.messages) is not None
        salted = seen and any(split_partition_key(key)[1] is not None for key in facts.messages.sample_partition_keys())
    except SaltctlError:
        seen = salted = False
    return facts.fix_commands.saltctl(*(["setup"] if seen and not salted else ["recover", "--dry-run"]))


def _has_identity(facts: Facts) -> bool:
    try:
        return bool(facts.identity)
    except SaltctlError:
        return False


def _not_ready(facts: Facts, name: str, table: Mapping[str, Any]) -> Finding | None:
    if (status := table.get("TableStatus")) in ("ACTIVE", "UPDATING"):
        return None
    wait = facts.fix_commands.aws("dynamodb", "wait", "table-exists", "--table-name", name)
    return fail(f"table {name!r} is {status}", wait)


def _unreachable(facts: Facts, exc: SaltctlError, table: str) -> Finding:
    """Report an error of a table. The fix is the commands of its hint; the detail has its sentences."""
    commands = facts.fix_commands
    sentences = [line for line in exc.hint.splitlines() if not is_command(line)]
    builders = {"aws": commands.aws, "saltctl": commands.saltctl}
    named = [(line, *line.split(" ", 1)) for line in first_commands(exc.hint)]
    fixes = [builders[first](*shlex.split(rest)) if first in builders else line for line, first, rest in named]
    if isinstance(exc, AwsUnavailableError):
        fixes = [commands.aws("dynamodb", "describe-table", "--table-name", table)]
    elif not fixes:
        denied = isinstance(exc, AccessDeniedError)
        fixes = [commands.aws("sts", "get-caller-identity") if denied else commands.saltctl("config", "show")]
    return fail(": ".join(filter(None, (exc.message, "; ".join(sentences)))), " && ".join(fixes))


def _update_backup_table(facts: Facts, *options: str) -> str:
    table = facts.settings.backup_table
    return facts.fix_commands.aws("dynamodb", "update-table", "--table-name", table, *options)


def registry(facts: Facts) -> Finding:
    """The backup table is the one that the registry was created in."""
    commands = facts.fix_commands
    try:
        identity = facts.identity
    except BackupLostError as exc:
        is_new = exc.hint == NEW_OR_LOST and not facts.redis_was_verified
        return fail(exc.message, _new_or_lost(facts) if is_new else commands.saltctl("recover", "--dry-run"))
    except ConfigurationError as exc:
        layout, prefix, registry_id = facts.backup.registry.layout()
        if facts.settings.registry_id not in (None, registry_id):
            return fail(exc.message, commands.export(SALTCTL_REGISTRY_ID=registry_id))
        other_layout = (layout, prefix) != (facts.settings.layout, facts.settings.key_prefix)
        return skip("see backup-layout") if other_layout else fail(exc.message, commands.saltctl("config", "show"))
    if problem := facts.backup.registry.table_unchecked:
        return warn(
            f"a restored table would not be noticed, because its identity cannot be read: {problem}",
            commands.saltctl("service", "emit", "iam"),
        )
    return ok(f"registry {identity.registry_id}, in the table that it was created in")


def layout(facts: Facts) -> Finding:
    """This client has the bucket count and key prefix that the backup table records."""
    settings, commands = facts.settings, facts.fix_commands
    layout, prefix, _ = facts.backup.registry.layout()
    if not (layout and prefix):
        return skip("the backup table records no layout: see backup-registry")
    if (layout, prefix) == (settings.layout, settings.key_prefix):
        return ok(f"{settings.buckets:,} buckets under {prefix}:, as in the backup table")
    return fail(
        f"this client has layout {settings.layout} under {settings.key_prefix!r}, but the backup table has "
        f"{layout} under {prefix!r}: lookups would use the wrong buckets",
        commands.export(SALTCTL_BUCKETS=layout.rpartition(":")[2], SALTCTL_KEY_PREFIX=prefix),
    )


def backup_recovery(facts: Facts) -> Finding:
    """The backup table can be restored to a point in time."""
    name = facts.settings.backup_table
    _ = facts.backup_table
    if facts.aws.point_in_time_recovery(facts.backup):
        return ok("point-in-time recovery is on")
    enable = ("--point-in-time-recovery-specification", "PointInTimeRecoveryEnabled=true")
    fix = facts.fix_commands.aws("dynamodb", "update-continuous-backups", "--table-name", name, *enable)
    return warn(f"table {name!r} cannot be restored to a point in time: point-in-time recovery is off", fix)


def backup_protection(facts: Facts) -> Finding:
    """The backup table is protected against deletion."""
    if facts.backup_table.get("DeletionProtectionEnabled"):
        return ok("deletion protection is on")
    fix = _update_backup_table(facts, "--deletion-protection-enabled")
    return warn(f"table {facts.settings.backup_table!r} can be deleted by mistake: deletion protection is off", fix)


def backup_billing(facts: Facts) -> Finding:
    """The capacity of the backup table suffices for all lookups of a Redis outage, and a rebuild."""
    name = facts.settings.backup_table
    table = facts.backup_table
    if table.get("BillingModeSummary", {}).get("BillingMode") == "PAY_PER_REQUEST":
        return ok("on demand")
    capacity = table.get("ProvisionedThroughput", {})
    return warn(
        f"table {name!r} has a provisioned capacity of {capacity.get('ReadCapacityUnits', 0):,} RCU and "
        f"{capacity.get('WriteCapacityUnits', 0):,} WCU: when Redis is down, every lookup reads this table",
        _update_backup_table(facts, "--billing-mode", "PAY_PER_REQUEST"),
    )


def backup_replication(facts: Facts) -> Finding:
    """Conditional writes to the backup table see the writes of all Regions."""
    name = facts.settings.backup_table
    table = facts.backup_table
    replicas = [str(replica.get("RegionName")) for replica in table.get("Replicas", [])]
    if not replicas:
        return ok("not a global table")
    if table.get("MultiRegionConsistency") == "STRONG":
        return ok(f"a global table with strong consistency: {', '.join(replicas)}")
    region_here = facts.aws.client.meta.region_name
    deletions = [{"Delete": {"RegionName": region}} for region in replicas if region != region_here]
    return fail(
        f"table {name!r} is a global table with eventual consistency ({', '.join(replicas)}): conditional "
        "writes see one Region only, so max_n can go down and histories can miss messages",
        _update_backup_table(facts, "--replica-updates", json.dumps(deletions)),
    )


def messages_table(facts: Facts) -> Finding:
    """The messages table exists, and its keys can be salted."""
    name, commands = facts.settings.messages_table, facts.fix_commands
    try:
        if (table := facts.describe(facts.messages)) is None:
            # saltctl creates a messages table only in a local environment, and no new registry beside an empty one.
            creates = is_loopback(facts.settings.aws_endpoint_url or "") and _has_identity(facts)
            fix = commands.saltctl("setup", "--messages") if creates else commands.aws("dynamodb", "list-tables")
            return fail(f"{facts.messages.missing().message} (AWS_REGION)", fix)
        if found := _not_ready(facts, name, table):
            return found
        keys = facts.messages.keys
    except SaltctlError as exc:
        return _unreachable(facts, exc, name)
    return ok(f"{name}, keys {keys.partition_key} (S) and {keys.sort_key} ({keys.sort_type})")


def lease(facts: Facts) -> Finding:
    """No dead process holds the lease."""
    holder = facts.backup.lease.holder()
    if holder is None:
        return ok("free")
    age = max(facts.now() - holder.heartbeat, 0.0)
    process = f"process {holder.pid} on {holder.host}"
    if age <= LEASE_EXPIRY:
        return ok(f"{process} is rebuilding ({holder.progress}; heartbeat {age:.0f} s ago)", lease_age_seconds=age)
    detail = f"{process} holds the lease and has not renewed it for {age:,.0f} s: its rebuild was interrupted"
    return warn(detail, facts.fix_commands.saltctl("rebuild"), lease_age_seconds=age)


def clock(facts: Facts) -> Finding:
    """The clocks of AWS and of this machine agree: AWS refuses requests that are five minutes off."""
    skew = facts.aws.skew()
    if skew is None:
        return skip("the answers of AWS have no date")
    return clock_skew("the clock of AWS", skew, "aws_clock_skew_seconds")


def permissions(facts: Facts) -> Finding:
    """These credentials have the permissions of application servers and the service."""
    _ = facts.backup_table  # raises if it does not exist
    findings = [_permissions(facts, facts.backup, None)]
    try:
        _ = facts.messages_table
        findings.append(_permissions(facts, facts.messages, facts.messages.keys))
    except (ConfigurationError, UnavailableError) as exc:
        findings.append(skip(exc.message))
    return combine(findings)


def _permissions(facts: Facts, table: Table, keys: TableKeys | None) -> Finding:
    allowed = facts.aws.permitted(table, keys)
    denied = [action for action, permitted in allowed.items() if not permitted]
    if denied:
        detail = f"these credentials may not {', '.join(denied)} on table {table.where}"
        return fail(detail, facts.fix_commands.saltctl("service", "emit", "iam"))
    return ok(f"{', '.join(allowed)} on {table.name}")


def throttles(facts: Facts) -> Finding:
    """The messages table was not throttled in the last 15 minutes."""
    table = facts.settings.messages_table
    found = scan_recent(facts.cloudwatch, table, facts.now(), THROTTLE_MINUTES)
    period = f"in the last {THROTTLE_MINUTES} minutes"
    if not found.has_data:
        return skip(f"CloudWatch has no data of table {table} {period}; no data does not mean healthy")
    if not found.throttled:
        return ok(f"table {table} was not throttled {period}", throttle_events=found.total)
    causes = ", ".join(f"{cause} {count:,.0f}" for cause, count in found.causes.items() if count)
    detail = f"table {table} was throttled {found.total:,.0f} times {period} ({causes or 'cause unknown'})"
    fix = facts.fix_commands.saltctl("throttle", "scan", "--since", f"{THROTTLE_MINUTES}m")
    return fail(detail, fix, throttle_events=found.total)


def drift(facts: Facts) -> Finding:
    """Redis and the backup agree in a sample."""
    entries = sum(counts.entries for counts in facts.registry_counts)
    report = compare_sample(facts.probe_settings, facts.backup, entries, random.Random())
    measures = {"drift_checked": float(report.checked), "drift_found": float(report.unrepaired)}
    verified = all(counts.verified for counts in facts.registry_counts)
    if report.unrepaired and verified:
        first = next((drift for drift in report.drift if not drift.is_interrupted_raise), report.drift[0])
        in_redis = "unreadable" if first.kind == "unreadable" else first.redis_n or "no entry"
        sides = f"Redis: {in_redis}, backup: {first.backup_n or 'no entry'}"
        differ = f"conversations that differ: {report.unrepaired:,} of {report.checked:,}"
        detail = f"{differ}, such as {first.conversation_id!r} ({sides})"
        repair = ["compare", "--repair", "--yes"]
        if first.planned_n is None and first.kind == "unreadable":  # which `compare` leaves as it is
            cure = DamagedEntry(first.conversation_id, "").cure
            repair = shlex.split(cure)[1:] if is_command(cure) else ["compare"]
        fix = facts.fix_commands.saltctl(*repair)
        damaged = f"; damaged backup items: {report.damaged:,}" if report.damaged else ""
        if report.unrepaired == report.interrupted_raises and not damaged:
            return warn(f"{detail}: raises were interrupted, and readers miss nothing", fix, **measures)
        return fail(detail + damaged, fix, **measures)
    if report.damaged:
        item = report.damaged_items[0]
        detail = f"damaged backup items, not written by saltctl: {report.damaged:,}, such as {item.conversation_id!r}"
        fix = item.cure if is_command(item.cure) else "saltctl compare"
        fix = with_root_options(fix, facts.fix_commands.root, ("history", "compare"))
        return warn(f"{detail}: {item.problem}", fix, **measures)
    if not verified:
        return skip("not compared: Redis is not verified, see redis-verified")
    detail = f"conversations compared: {report.checked:,}, no difference"
    if report.unsealed:
        cool = command_line("registry", "cool", ids=report.unsealed_ids)
        cool = with_root_options(cool, facts.fix_commands.root, ("registry",))
        detail = f"{detail}; narrowed by a cool-down and not sealed: {report.unsealed:,}, see {cool}"
    return ok(detail, **measures)
