"""The check that compares a few conversations in Redis and in the backup."""

from __future__ import annotations

import random

from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, fail, ok, warn
from saltctl.registry.drift_sample import compare_sample


def drift(facts: Facts) -> Finding:
    """Redis holds what the backup holds, as far as a sample shows."""
    entries = sum(counts.entries for counts in facts.registry_counts)
    found = compare_sample(facts.probe_settings, facts.backup, entries, random.Random())
    measures = {"drift_checked": float(found.checked), "drift_found": float(found.unrepaired)}
    if found.unrepaired:
        first = found.drift[0]
        sides = f"{first.conversation_id!r}: Redis {first.redis_n or 'nothing'}, backup {first.backup_n or 'nothing'}"
        told = f"{found.unrepaired:,} of {found.checked:,} conversations differ, such as {sides}"
        return fail(told, facts.fix_commands.saltctl("compare", "--repair", "--yes"), **measures)
    if found.damaged:
        told = f"{found.damaged:,} items of the backup cannot have been written by saltctl"
        return warn(told, facts.fix_commands.saltctl("compare"), **measures)
    return ok(f"{found.checked:,} conversations compared, no difference", **measures)
