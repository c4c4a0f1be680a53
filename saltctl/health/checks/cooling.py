"""Doctor checks of cooled conversations."""

from __future__ import annotations

import random
from contextlib import closing

from saltctl.cooling.boundary import strays
from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, fail, ok
from saltctl.registry.lookups import lookup_of
from saltctl.stores.contracts.entries import CooledEntry

SAMPLE = 300
"""Items of the backup that are read, of a random part of it."""
LOOKED_AT = 3
"""Cooled conversations whose salts are asked: one query a salt."""


def boundaries(facts: Facts) -> Finding:
    """No message of a cooled conversation is where readers do not look, in a sample."""
    entries = sum(counts.entries for counts in facts.registry_counts)
    parts = max(entries // SAMPLE, 1)
    with closing(facts.backup.scan(parts, limit=SAMPLE, only=random.randrange(parts))) as pages:
        found = [(i, entry) for i, entry, _ in next(pages).entries if isinstance(entry, CooledEntry)]
    cooled = [lookup_of(i, entry, "backup", entry.write_n) for i, entry in found]
    sample = [lookup for lookup in cooled if lookup.old_salts][:LOOKED_AT]
    for lookup in sample:
        if missed := strays(facts.messages, lookup):
            key, row = next(iter(missed.items()))
            return fail(
                f"readers of {lookup.conversation_id!r} miss messages from its boundary on, such as {str(row)!r:.60} "
                f"in {key!r}: a clock was ahead, or a writer stalled",
                facts.fix_commands.saltctl("history", "audit", lookup.conversation_id, "--repair", "--yes"),
            )
    return ok(f"cooled conversations looked at: {len(sample):,}")
