"""The check that compares a few conversations in Redis and in the backup."""

from __future__ import annotations

import random

from saltctl.doctor.facts import Facts
from saltctl.doctor.findings import Finding, fail, ok
from saltctl.drift_sample import sample
from saltctl.errors import DamagedEntryError


def drift(facts: Facts) -> Finding:
    """Redis holds what the backup holds, as far as a sample shows."""
    try:
        found = sample(facts.redis, facts.backup, facts.settings.buckets, random.Random())
    except DamagedEntryError as exc:
        return fail(exc.message, facts.paste.saltctl("rebuild", "--dry-run"))
    measures = {"drift_checked": found.checked, "drift_found": len(found.drift)}
    if not found.drift:
        return ok(f"{found.checked:,} conversations compared, no difference", **measures)
    first = found.drift[0]
    sides = f"Redis {first.redis_n or 'nothing'}, backup {first.backup_n or 'nothing'}"
    return fail(
        f"{len(found.drift):,} of {found.checked:,} conversations differ, such as {first.conversation_id!r}: {sides}",
        facts.paste.saltctl("rebuild"),
        **measures,
    )
