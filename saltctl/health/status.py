"""Status of all parts, for one screen. All sources are read in parallel, and each may fail by itself."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from saltctl.commands import command_line
from saltctl.errors import BackupLostError, ConfigurationError, ExitCode, SaltctlError
from saltctl.health.facts import Facts
from saltctl.health.headline import headline_of
from saltctl.history.full_audit.state import MISSING, age
from saltctl.registry.compare import compare_sample
from saltctl.registry.failures import read_undamaged
from saltctl.registry.recovery.recovery_plan import Elsewhere
from saltctl.registry.registry import Registry
from saltctl.stores.heat.service_state import Verification
from saltctl.stores.redis.replies.platforms import evicts_entries
from saltctl.throttling.analysis import ONGOING_MINUTES
from saltctl.throttling.scan import scan_recent
from saltctl.times import iso_utc
from saltctl.urls import mask_url
from saltctl.values import REGISTRY_ID

TIMEOUT_SECONDS = 5.0
"""Timeout of a source, after which its panel shows an error."""
THROTTLE_MINUTES = 60
SAMPLED_BUCKETS = 512
"""Most buckets that the drift sample reads, so that the screen appears within a second."""

MAX_FINDINGS_SHOWN = 5
"""Findings of the audit of all conversations that a status has."""

PROBE_ID = "saltctl-status"
"""The conversation that a status looks up. It need not exist."""

Panel = dict[str, Any]


def registry(facts: Facts) -> Panel:
    """Read whether Redis is verified, since when, and its number of entries. ``since`` is null if it is unknown."""
    servers = facts.servers  # first: a refused login is named as such, and the counts would be cut off
    primaries = facts.registry_counts
    replication_ids = {str(server.info.get("master_replid", "")) for server in servers}
    policies = {str(server.info.get("maxmemory_policy", "")) for server in servers}
    note = facts.service_state.verification()
    verified = all(counts.verified for counts in primaries)
    # Only a rebuild verifies, and the note is from the latest one: these primaries are verified since then.
    noted = verified and note and replication_ids <= set(note.replication_ids)
    return _ownership(facts, note) | {
        "registry_id": facts.layout.partition(":")[2].partition(":")[2] or None,
        "backup_error": _backup_error(facts),
        "verified": verified,
        "evicting": next((policy for policy in sorted(policies) if policy and evicts_entries(policy)), None),
        "since": iso_utc(note.at) if note and noted else None,
        "entries": sum(counts.entries for counts in primaries),
        "primaries": [
            {"name": counts.primary}
            | {key: getattr(counts, key) for key in ("verified", "entries", "buckets", "fenced")}
            for counts in primaries
        ],
    }


def _ownership(facts: Facts, note: Verification | None) -> Panel:
    """Return whether Redis seems to belong to another table; ``hint`` is the command that is right then."""
    try:
        region = facts.backup.registry.region
        recorded = facts.backup.registry.recorded_ids() if facts.other_registry_id else set()
    except SaltctlError:
        region, recorded = "", set()
    elsewhere, other = Elsewhere.of(note, facts.settings.backup_table, region), facts.other_registry_id
    hint = None
    if other:
        # An interrupted recovery of this table leaves the id that it replaced.
        known = other in recorded or not re.fullmatch(REGISTRY_ID, other)
        hint = command_line("recover", given={} if known else {"--take-over": other}) + " --dry-run"
    elif elsewhere and elsewhere.table in ("", facts.settings.backup_table):
        hint = elsewhere.settings  # a table of this name in another Region
    found = None if elsewhere is None else str(elsewhere)
    return {"other_registry": other or None, "verified_from": found, "hint": hint}


def _backup_error(facts: Facts) -> str | None:
    """Return why the backup table must not be used or cannot be read; None if lookups may use it."""
    failed = backup(facts)
    return "; ".join([*filter(None, [failed.get("error")]), *str(failed.get("hint") or "").splitlines()]) or None


def lookups(facts: Facts) -> Panel:
    """Look up a conversation as an application server does, and say which side answered.

    ``unverified_buckets`` of all ``buckets`` answer from the backup; null if Redis does not say it.
    """
    with Registry.open(facts.probe_settings) as registry:
        found: Panel = {"source": registry.lookup(PROBE_ID).source, "buckets": facts.settings.buckets}
    try:
        return found | {"unverified_buckets": sum(counts.unverified for counts in facts.registry_counts)}
    except SaltctlError:
        return found | {"unverified_buckets": None}


def backup(facts: Facts) -> Panel:
    """Read the registry's identity from the backup table. ``registry_id`` is that of the settings if it fails.

    ``recovery_began``: the backup is lost, and a recovery was interrupted; ``recover --dry-run`` knows the rest.
    """
    table, settings = facts.settings.backup_table, facts.settings
    try:
        found: Panel = {"table": table, "registry_id": facts.identity.registry_id, "recovery_began": False}
        layout, prefix, _ = facts.backup.registry.layout()
        if layout and prefix and (layout, prefix) != (settings.layout, settings.key_prefix):
            right = {"SALTCTL_BUCKETS": layout.rpartition(":")[2], "SALTCTL_KEY_PREFIX": prefix}
            raise ConfigurationError(
                f"the registry is laid out as {layout} under {prefix!r}, and this client is set to {settings.layout} "
                f"under {settings.key_prefix!r}",
                hint=facts.fix_commands.export(**right),
            )
        return found
    except SaltctlError as exc:
        lost = isinstance(exc, BackupLostError) and _recovery_began(facts)
        return {"table": table, "registry_id": facts.settings.registry_id, "recovery_began": lost} | _failure(exc)


def _recovery_began(facts: Facts) -> bool:
    """Return whether a recovery was interrupted after it had read messages."""
    try:
        return facts.backup.scan_checkpoint.load(0) is not None
    except SaltctlError:
        return False


def drift(facts: Facts) -> Panel:
    """Compare a sample of conversations in Redis and in the backup; what was found is null if Redis is not verified.

    ``found`` conversations differ; of ``interrupted`` ones of them a raise was interrupted, and readers miss nothing.
    ``unsealed`` were narrowed by a cool-down long ago, and never sealed.
    """
    _ = facts.servers  # as above
    entries = sum(counts.entries for counts in facts.registry_counts)
    report = compare_sample(facts.probe_settings, facts.backup, entries, random.Random(), max_buckets=SAMPLED_BUCKETS)
    items = [asdict(item) for item in report.damaged_items]
    # What an unverified Redis holds shows nothing: lookups do not use it, and a rebuild will merge the backup into it.
    verified = all(counts.verified for counts in facts.registry_counts)
    found = report.unrepaired if verified else None
    interrupted = report.interrupted_raises if verified else None
    counts = {"checked": report.checked, "found": found, "interrupted": interrupted, "damaged": report.damaged}
    return counts | {"damaged_items": items, "unsealed": report.unsealed, "unsealed_ids": report.unsealed_ids}


def service(facts: Facts) -> Panel:
    """Read the instances of the service and their backlog."""
    return facts.stream.service_record(dead_letters=facts.dead_letters)


def raises(facts: Facts) -> Panel:
    """Read the latest raises of the service. Their reasons are in the backup, and null if it cannot be read."""
    latest = [raised for raised in facts.service_state.last_raises() if isinstance(raised.get("conversation_id"), str)]
    try:
        entries, _ = read_undamaged(facts.backup, [raised["conversation_id"] for raised in latest])
    except SaltctlError:
        entries = {}
    reasons: dict[tuple[Any, Any], str] = {
        (conversation_id, past.n): past.reason
        for conversation_id, entry in entries.items()
        for past in entry.raises
        if not past.cooled
    }
    last = []
    for raised in latest:
        shown = {key: raised.get(key) for key in ("conversation_id", "before", "after", "at", "by")}
        last.append(shown | {"reason": reasons.get((raised["conversation_id"], raised.get("after")))})
    return {"last": last}


def throttles(facts: Facts) -> Panel:
    """Count the throttle events of the messages table in the last hour, by minute.

    ``seen``: CloudWatch has data. ``last_at``: the last minute with an event. ``ongoing``: it is one of the newest.
    """
    table = facts.settings.messages_table
    found = scan_recent(facts.cloudwatch, table, facts.now(), THROTTLE_MINUTES)
    per_minute = found.events_per_period()
    last = max((minute for minute, events in enumerate(per_minute) if events), default=None)
    return {
        "table": table,
        "total": found.total,
        "causes": dict(found.causes),
        "per_minute": per_minute,
        "seen": found.has_data,
        "last_at": None if last is None else iso_utc(found.time_range.start + 60 * last),
        "ongoing": last is not None and last >= len(per_minute) - ONGOING_MINUTES,
    }


def audit(facts: Facts) -> Panel:
    """Read what the audit of all conversations found, and how old its proof is. All values are null before the first.

    ``missed`` counts the conversations of which readers miss messages, and ``findings`` has the first ones of all.
    """
    state = facts.full_audit
    if state is None:
        return dict.fromkeys(AUDIT_KEYS)
    found = sorted(state.findings, key=lambda finding: finding.kind not in MISSING)
    return {
        "oldest_age_s": age(state.proven, facts.now()),
        "sample_age_s": age(state.sample.complete, facts.now()),
        "found": state.found,
        "missed": sum(finding.kind in MISSING for finding in found),
        "orphans": sum(finding.orphans for finding in found if finding.kind in MISSING),
        "unread": state.unread,
        "cycle_began_at": None if state.began is None else iso_utc(state.began),
        "cycle_audited": state.audited,
        "findings": [
            {"conversation_id": one.conversation_id, "kind": one.kind, "needed_n": one.needed_n, "command": one.command}
            for one in found[:MAX_FINDINGS_SHOWN]
        ],
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


AUDIT_KEYS = (
    "oldest_age_s",
    "sample_age_s",
    "found",
    "missed",
    "orphans",
    "unread",
    "cycle_began_at",
    "cycle_audited",
    "findings",
)
PANELS: Mapping[str, tuple[Callable[[Facts], Panel], tuple[str, ...]]] = {
    "registry": (
        registry,
        (
            "registry_id",
            "backup_error",
            "verified",
            "evicting",
            "since",
            "entries",
            "primaries",
            "other_registry",
            "verified_from",
        ),
    ),
    "backup": (backup, ("table", "registry_id", "recovery_began")),
    "lookups": (lookups, ("source", "buckets", "unverified_buckets")),
    "drift": (drift, ("checked", "found", "interrupted", "damaged", "damaged_items", "unsealed", "unsealed_ids")),
    "service": (service, ("verdict", "alive", "lag", "pending", "dead_letters", "instances")),
    "raises": (raises, ("last",)),
    "throttles": (throttles, ("table", "total", "causes", "per_minute", "seen", "last_at", "ongoing")),
    "audit": (audit, AUDIT_KEYS),
    "lease": (lease, ("held", "host", "pid", "progress", "heartbeat")),
}
"""Each panel and its keys. All keys are null if the panel's source fails."""


def read_status(facts: Facts, timeout: float = TIMEOUT_SECONDS) -> dict[str, Any]:
    """Read all panels in parallel, and judge them.

    ``error`` of a panel is null, or says why it could not be read; then it has a ``hint`` and an ``exit_code``.
    """
    answers = facts.call_in_parallel({name: read for name, (read, _) in PANELS.items()}, timeout)
    panels = {
        name: dict.fromkeys(PANELS[name][1]) | _failure(answer)
        if isinstance(answer, Exception)
        else {"error": None, "hint": None, "exit_code": None} | answer
        for name, answer in answers.items()
    }
    headline = headline_of(panels)
    settings = facts.settings
    return {
        "at": iso_utc(facts.now()),
        "context": settings.context,
        "protected": settings.protected,
        "redis": mask_url(settings.require_redis_url()),
        "backup_table": settings.backup_table,
        "messages_table": settings.messages_table,
        "state": headline.state,
        "headline": headline.text,
        "next": headline.next or None,
        **panels,
    }


def _failure(exc: Exception) -> Panel:
    known = isinstance(exc, SaltctlError | TimeoutError)
    return {
        "error": str(exc) if known else f"internal error: {type(exc).__name__}: {exc}",
        "hint": exc.hint if isinstance(exc, SaltctlError) else "saltctl doctor",
        "exit_code": int(exc.exit_code if isinstance(exc, SaltctlError) else ExitCode.UNAVAILABLE if known else 1),
    }
