"""One look at everything, for a screen. Each source is asked at the same time, and may be down by itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from saltctl.detection.stream_status import is_alive
from saltctl.errors import SaltctlError
from saltctl.health.facts import Facts
from saltctl.health.parallel import call_in_parallel
from saltctl.registry.drift_sample import compare_sample
from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
from saltctl.stores.heat.stream import GROUP
from saltctl.throttling.scan import scan_recent
from saltctl.times import iso_utc

TIMEOUT_SECONDS = 5.0
"""Seconds after which a source that has not answered is taken for down."""
SAMPLED_BUCKETS = 512
"""Buckets that the sample for drift looks into at most, so that the screen is there within a second."""

Panel = dict[str, Any]


def registry(facts: Facts) -> Panel:
    """Verified or not, since when at least, and how many entries. ``since`` is null where nobody noted it."""
    primaries = facts.registry_counts
    replication_ids = {look.primary: str(look.info.get("master_replid", "")) for look in facts.servers}
    note = facts.state.verification()
    verified = all(counts.verified for counts in primaries)
    noted = note is not None and set(replication_ids.values()) <= set(note.replication_ids)
    return {
        "verified": verified,
        # Only a rebuild verifies, and the note is the latest one's: these primaries have been so since then.
        "since": iso_utc(note.at) if verified and noted and note is not None else None,
        "entries": sum(counts.entries for counts in primaries),
        "primaries": [
            {
                "name": counts.primary,
                "verified": counts.verified,
                "entries": counts.entries,
                "buckets": counts.buckets,
                "fenced": counts.fenced,
            }
            for counts in primaries
        ],
    }


def drift(facts: Facts) -> Panel:
    """How many conversations of a sample were compared, and how many of them differ."""
    entries = sum(counts.entries for counts in facts.registry_counts)
    found = compare_sample(facts.probe_settings, facts.backup, entries, random.Random(), max_buckets=SAMPLED_BUCKETS)
    return {"checked": found.checked, "found": found.unrepaired, "damaged": found.damaged}


def service(facts: Facts) -> Panel:
    """The instances, and what they have left to do."""
    info = facts.stream.info
    group = None if info is None else info.group(GROUP)
    consumers = () if group is None else group.consumers
    return {
        "verdict": facts.stream.verdict,
        "alive": sum(is_alive(consumer.idle_s) for consumer in consumers),
        "lag": None if group is None else group.lag,
        "pending": None if group is None else group.pending,
        "dead_letters": facts.dead_letters,
        "instances": [
            {"name": c.name, "pending": c.pending, "idle_s": c.idle_s, "alive": is_alive(c.idle_s)} for c in consumers
        ],
    }


def raises(facts: Facts) -> Panel:
    """The service's latest raises, with the reasons that the backup has for them where it can be asked."""
    latest = [raised for raised in facts.state.last_raises() if isinstance(raised.get("conversation_id"), str)]
    try:
        held = facts.backup.get_many([raised["conversation_id"] for raised in latest]) if latest else {}
    except SaltctlError:
        held = {}
    reasons: dict[tuple[Any, Any], str] = {
        (i, past.n): past.reason for i, entry in held.items() for past in entry.raises
    }
    keys = ("conversation_id", "before", "after", "at", "by")
    return {
        "last": [
            {key: raised.get(key) for key in keys}
            | {"reason": reasons.get((raised["conversation_id"], raised.get("after")))}
            for raised in latest
        ]
    }


def throttles(facts: Facts) -> Panel:
    """Events a minute of the messages table in the last 15; ``seen`` is false where CloudWatch has no data."""
    table = facts.settings.messages_table
    store = CloudWatchMetrics(facts.probe_settings, client=facts.cloudwatch, dynamodb=facts.aws.client)
    found = scan_recent(store, table, facts.now())
    return {
        "table": table,
        "total": found.total,
        "causes": dict(found.causes),
        "per_minute": list(found.events_per_period()),
        "seen": found.has_data,
    }


def lease(facts: Facts) -> Panel:
    """Who rebuilds now."""
    holder = facts.backup.lease.holder()
    return {
        "held": holder is not None,
        "host": holder and holder.host,
        "pid": holder and holder.pid,
        "progress": holder and holder.progress,
        "heartbeat": holder and iso_utc(holder.heartbeat),
    }


PANELS: Mapping[str, tuple[Callable[[Facts], Panel], tuple[str, ...]]] = {
    "registry": (registry, ("verified", "since", "entries", "primaries")),
    "drift": (drift, ("checked", "found", "damaged")),
    "service": (service, ("verdict", "alive", "lag", "pending", "dead_letters", "instances")),
    "raises": (raises, ("last",)),
    "throttles": (throttles, ("table", "total", "causes", "per_minute", "seen")),
    "lease": (lease, ("held", "host", "pid", "progress", "heartbeat")),
}
"""Each panel with its keys, which are there, and null, where its source is down."""


def read_status(facts: Facts, seconds: float = TIMEOUT_SECONDS) -> dict[str, Any]:
    """All panels, asked at once. Each has ``error``: null, or why it knows nothing."""
    questions = {name: _bound(panel, facts) for name, (panel, _) in PANELS.items()}
    answers = dict(call_in_parallel(questions, seconds))
    return {"at": iso_utc(facts.now())} | {name: _panel(name, answers[name]) for name in PANELS}


def _bound(panel: Callable[[Facts], Panel], facts: Facts) -> Callable[[], Panel]:
    return lambda: panel(facts)


def _panel(name: str, answer: Panel | Exception) -> Panel:
    if not isinstance(answer, Exception):
        return answer | {"error": None}
    if isinstance(answer, SaltctlError):
        why = answer.message
    elif isinstance(answer, TimeoutError):
        why = str(answer)
    else:
        why = f"a defect of saltctl's own: {type(answer).__name__}: {answer}"
    return dict.fromkeys(PANELS[name][1]) | {"error": why}
