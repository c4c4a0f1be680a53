"""Status of all parts, for one screen. All sources are read in parallel, and each may fail by itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from saltctl.errors import SaltctlError
from saltctl.health.facts import Facts
from saltctl.registry.compare import compare_sample
from saltctl.throttling.scan import scan_recent
from saltctl.times import iso_utc

TIMEOUT_SECONDS = 5.0
"""Timeout of a source, after which its panel shows an error."""
SAMPLED_BUCKETS = 512
"""Most buckets that the drift sample reads, so that the screen appears within a second."""

Panel = dict[str, Any]


def registry(facts: Facts) -> Panel:
    """Read whether Redis is verified, since when, and its number of entries. ``since`` is null if it is unknown."""
    primaries = facts.registry_counts
    replication_ids = {str(server.info.get("master_replid", "")) for server in facts.servers}
    note = facts.service_state.verification()
    verified = all(counts.verified for counts in primaries)
    # Only a rebuild verifies, and the note is from the latest one: these primaries are verified since then.
    noted = verified and note and replication_ids <= set(note.replication_ids)
    return {
        "registry_id": facts.layout.partition(":")[2].partition(":")[2] or None,
        "backup_error": _backup_error(facts),
        "verified": verified,
        "since": iso_utc(note.at) if note and noted else None,
        "entries": sum(counts.entries for counts in primaries),
        "primaries": [
            {"name": counts.primary}
            | {key: getattr(counts, key) for key in ("verified", "entries", "buckets", "fenced")}
            for counts in primaries
        ],
    }


def _backup_error(facts: Facts) -> str | None:
    """Return why the backup table must not be used or cannot be read; None if lookups may use it."""
    try:
        _ = facts.identity
    except SaltctlError as exc:
        return "; ".join(filter(None, (exc.message, exc.hint)))
    return None


def drift(facts: Facts) -> Panel:
    """Compare a sample of conversations in Redis and in the backup."""
    entries = sum(counts.entries for counts in facts.registry_counts)
    report = compare_sample(facts.probe_settings, facts.backup, entries, random.Random(), max_buckets=SAMPLED_BUCKETS)
    return {"checked": report.checked, "found": report.unrepaired, "damaged": report.damaged}


def service(facts: Facts) -> Panel:
    """Read the instances of the service and their backlog."""
    return facts.stream.service_record(dead_letters=facts.dead_letters)


def raises(facts: Facts) -> Panel:
    """Read the latest raises of the service. Their reasons are in the backup, and null if it cannot be read."""
    latest = [raised for raised in facts.service_state.last_raises() if isinstance(raised.get("conversation_id"), str)]
    try:
        entries = facts.backup.get_many([raised["conversation_id"] for raised in latest]) if latest else {}
    except SaltctlError:
        entries = {}
    reasons: dict[tuple[Any, Any], str] = {
        (conversation_id, past.n): past.reason for conversation_id, entry in entries.items() for past in entry.raises
    }
    last = []
    for raised in latest:
        shown = {key: raised.get(key) for key in ("conversation_id", "before", "after", "at", "by")}
        last.append(shown | {"reason": reasons.get((raised["conversation_id"], raised.get("after")))})
    return {"last": last}


def throttles(facts: Facts) -> Panel:
    """Count the throttle events of the messages table in the last 15 minutes. ``seen``: CloudWatch has data."""
    table = facts.settings.messages_table
    found = scan_recent(facts.cloudwatch, table, facts.now())
    return {
        "table": table,
        "total": found.total,
        "causes": dict(found.causes),
        "per_minute": found.events_per_period(),
        "seen": found.has_data,
    }


def lease(facts: Facts) -> Panel:
    """Read the holder of the lease."""
    holder = facts.backup.lease.holder()
    return {
        "held": holder is not None,
        "host": holder and holder.host,
        "pid": holder and holder.pid,
        "progress": holder and holder.progress,
        "heartbeat": holder and iso_utc(holder.heartbeat),
    }


PANELS: Mapping[str, tuple[Callable[[Facts], Panel], tuple[str, ...]]] = {
    "registry": (registry, ("registry_id", "backup_error", "verified", "since", "entries", "primaries")),
    "drift": (drift, ("checked", "found", "damaged")),
    "service": (service, ("verdict", "alive", "lag", "pending", "dead_letters", "instances")),
    "raises": (raises, ("last",)),
    "throttles": (throttles, ("table", "total", "causes", "per_minute", "seen")),
    "lease": (lease, ("held", "host", "pid", "progress", "heartbeat")),
}
"""Each panel and its keys. All keys are null if the panel's source fails."""


def read_status(facts: Facts, timeout: float = TIMEOUT_SECONDS) -> dict[str, Any]:
    """Read all panels in parallel. ``error`` of a panel is null, or says why it could not be read."""
    answers = facts.call_in_parallel({name: read for name, (read, _) in PANELS.items()}, timeout)
    status: dict[str, Any] = {"at": iso_utc(facts.now())}
    for name, answer in answers.items():
        if not isinstance(answer, Exception):
            status[name] = answer | {"error": None}
            continue
        known = isinstance(answer, SaltctlError | TimeoutError)
        error = str(answer) if known else f"internal error: {type(answer).__name__}: {answer}"
        status[name] = dict.fromkeys(PANELS[name][1]) | {"error": error}
    return status
