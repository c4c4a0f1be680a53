"""Checks of the registry: whether Redis is verified, has this client's layout, and agrees with the backup."""

from __future__ import annotations

import random

from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, combine, fail, ok, warn
from saltctl.registry.drift_sample import compare_sample


def verified(facts: Facts) -> Finding:
    """Every bucket of every primary is verified."""
    findings = []
    for counts in facts.registry_counts:
        if counts.verified:
            detail = f"{counts.primary}: all {counts.buckets:,} buckets, {counts.entries:,} entries"
            findings.append(ok(detail, registry_verified=1, registry_entries=counts.entries))
            continue
        if counts.loaded:
            reason = f"{counts.buckets - counts.fenced:,} of {counts.buckets:,} buckets have no valid fence"
        else:
            reason = "it restarted or was never rebuilt"
        detail = f"{counts.primary} is not verified ({reason}): lookups use the backup"
        findings.append(fail(detail, facts.fix_commands.saltctl("rebuild"), registry_verified=0))
    return combine(findings)


def layout(facts: Facts) -> Finding:
    """This client has the bucket count and key prefix that the backup table records."""
    settings, commands = facts.settings, facts.fix_commands
    bound = facts.backup.bound_layout()
    if bound is None:
        return warn("the backup table records no layout yet", commands.saltctl("setup"))
    table_layout, prefix = bound
    if bound == (settings.layout, settings.key_prefix):
        return ok(f"{settings.buckets:,} buckets under {prefix}:, as in the backup table")
    return fail(
        f"this client has layout {settings.layout} under {settings.key_prefix!r}, but the backup table has "
        f"{table_layout} under {prefix!r}: lookups would use the wrong buckets",
        commands.export(SALTCTL_BUCKETS=table_layout.rpartition(":")[2], SALTCTL_KEY_PREFIX=prefix),
    )


def drift(facts: Facts) -> Finding:
    """Redis and the backup agree in a sample."""
    entries = sum(counts.entries for counts in facts.registry_counts)
    report = compare_sample(facts.probe_settings, facts.backup, entries, random.Random())
    measures = {"drift_checked": float(report.checked), "drift_found": float(report.unrepaired)}
    if report.unrepaired:
        first = report.drift[0]
        sides = f"Redis: {first.redis_n or 'no entry'}, backup: {first.backup_n or 'no entry'}"
        differ = f"conversations that differ: {report.unrepaired:,} of {report.checked:,}"
        detail = f"{differ}, such as {first.conversation_id!r} ({sides})"
        return fail(detail, facts.fix_commands.saltctl("compare", "--repair", "--yes"), **measures)
    if report.damaged:
        detail = f"damaged backup items, not written by saltctl: {report.damaged:,}"
        return warn(detail, facts.fix_commands.saltctl("compare"), **measures)
    return ok(f"conversations compared: {report.checked:,}, no difference", **measures)
