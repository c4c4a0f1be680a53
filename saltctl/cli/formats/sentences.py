"""The sentence that a result begins with: what happened, in one line, before the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from saltctl.cli.formats.text import counted
from saltctl.commands import command_line
from saltctl.salting import number_text
from saltctl.times import parse_iso

if TYPE_CHECKING:
    from saltctl.detection.replay import ReplayReport
    from saltctl.detection.stream_status import StreamStatus
    from saltctl.history.audit import Audit
    from saltctl.history.full_audit.events import FullAudit
    from saltctl.rebuild.events import RebuildReport
    from saltctl.registry.drift import ComparisonReport
    from saltctl.registry.transfer import ImportReport


def _entries(number: int) -> str:
    return counted(number, "entry", "entries")


def rebuild_sentence(report: RebuildReport) -> str:
    """Say whether Redis is verified, and how much was restored."""
    if report.verified_before and report.seconds == 0:  # by --if-needed
        return "Redis was verified already: nothing to do"
    took = f"in {report.seconds:,.1f} s"
    if report.dry_run:
        return f"Dry run: {_entries(report.entries)}, {report.restored:,} to restore, {took}; nothing was changed"
    skipped = f", {report.skipped:,} skipped" if report.skipped else ""
    outcome = "Verified" if report.verified else "Not verified"
    return f"{outcome}: {_entries(report.entries)}, {report.restored:,} restored{skipped}, {took}"


def compare_sentence(report: ComparisonReport) -> str:
    """Say whether both sides agree. Without a verified Redis that is not all: lookups do not use it."""
    took = f"in {report.seconds:,.1f} s"
    if report.unrepaired:
        repaired = f", {report.repaired:,} more repaired" if report.repaired else ""
        found = f"Drift: {report.unrepaired:,} of {_entries(report.checked)} differ{repaired}, {took}"
    elif report.repaired:
        found = f"Repaired: {report.repaired:,} of {_entries(report.checked)}, {took}"
    elif report.verified:
        found = f"In sync: {_entries(report.checked)}, {took}"
    else:
        found = f"Unknown: {_entries(report.checked)} agree, {took}"
    damaged = f"; {counted(report.damaged, 'damaged item')} not compared" if report.damaged else ""
    return found + damaged + ("" if report.verified else "; but Redis is not verified")


def recover_sentence(record: Mapping[str, Any], *, reads_messages: bool = False) -> str:
    """Say what a recovery found and whether Redis is verified; ``record`` has the keys of the contract."""
    state = "verified" if record["verified"] else "not verified"
    if record["dry_run"]:
        before = ", before the messages are read" if reads_messages else ""
        return f"Dry run: {_entries(record['entries'])} so far{before}; Redis is {state}; nothing was changed"
    skipped = f", {record['skipped']:,} skipped" if record["skipped"] else ""
    raised = f"{_entries(record['entries'])}, {record['raised']:,} of them raised{skipped}"
    return f"Recovered: {raised}; Redis is {state}; in {record['seconds']:,.1f} s"


def setup_sentence(actions: Sequence[Mapping[str, Any]], *, dry_run: bool) -> str:
    """Say what was created."""
    created = [str(action["resource"]) for action in actions if action["action"] != "exists"]
    if not created:
        return "Nothing to do: everything exists"
    return f"{'Dry run: would create' if dry_run else 'Created'}: {', '.join(created)}"


def raise_sentence(record: Mapping[str, Any]) -> str:
    """Say what a raise did; ``record`` has the keys of the contract."""
    name, before, after = record["conversation_id"], record["before"], record["after"]
    change = f"{name} from {before:,} to {after:,} salts" if before != after else f"{name} at {after:,} salts"
    if before == after and record["committed"]:
        return f"Nothing to do: {change}"
    if record["dry_run"]:
        return f"Dry run: would {'raise' if before != after else 'complete'} {change}"
    return f"{'Raised' if record['changed'] else 'Completed' if record['committed'] else 'Not complete'}: {change}"


def cooling_sentence(record: Mapping[str, Any], now: datetime | None = None) -> str:
    """Say what a cool-down did; ``record`` has the keys of the contract. A final colon asks for the next command."""
    from saltctl.cooling.cooling import BEGUN_ANEW, HIGHER

    name, salts = record["conversation_id"], counted(record["write_n"] or 0, "salt")
    if record["problem"] is not None:
        return f"not cooled: {name}: {record['problem']}"
    done, would = record["changed"] and not record["dry_run"], record["changed"] and record["dry_run"]
    if record["phase"] == "narrowed":
        verb = "narrowed" if done else "would narrow" if would else "already narrowed"
        when = f"; seal it from {_clock_time(record['ready_at'], now)} on:" if record["ready_at"] else ""
        said = f"{verb} {name}: new messages use {salts}{'' if would else when}"
    elif record["phase"] == "sealed":
        verb = "sealed" if done else "would seal" if would else "already sealed"
        key = record["recent_from"]
        key = repr(key) if isinstance(key, str) else number_text(key)
        said = f"{verb} {name}: from {key} on readers ask {counted(record['recent_n'], 'salt')}, not {record['max_n']}"
    else:
        said = f"nothing to do: {name} has {salts}"
    return f"{record['reason']}: {said}" if record["reason"] in (HIGHER, BEGUN_ANEW) else said


def unsealed_note(count: int, ids: Sequence[str], *, sampled: bool) -> str:
    """Say that cool-downs were begun and never sealed, and the command that seals the first ones."""
    of_sample = " of the sample" if sampled else ""
    narrowed = counted(count, f"conversation{of_sample} is", f"conversations{of_sample} are")
    return f"{narrowed} narrowed and not sealed:\n{command_line('registry', 'cool', ids=ids)}"


def page_cost_sentence(record: Mapping[str, Any]) -> str:
    """Say what a newest page costs before a cool-down and after it; ``record`` is that of a dry run."""
    before, after = (
        f"{counted(record[f'queries_{when}'], 'query', 'queries')} ({record[f'rcu_{when}']:,g} RCU)"
        for when in ("before", "after")
    )
    return f"a newest page costs {before}, and {after} once it lies beyond the boundary"


def _clock_time(at: str, now: datetime | None) -> str:
    """Return the time of day of an ISO 8601 time, rounded up to a second; with the date if it is another one."""
    moment, today = parse_iso(at).astimezone(UTC), (now or datetime.now(UTC)).date()
    if moment.microsecond:
        moment = moment.replace(microsecond=0) + timedelta(seconds=1)
    return f"{moment:%H:%M:%S} UTC" if moment.date() == today else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def import_sentence(report: ImportReport) -> str:
    """Say what an import raised."""
    left = f", {report.skipped:,} skipped" if report.skipped else ""
    left += f", {report.failed:,} failed" if report.failed else ""
    verb = "would be raised" if report.dry_run else "raised"
    return f"{'Dry run' if report.dry_run else 'Imported'}: {_entries(report.read)}, {report.raised:,} {verb}{left}"


def replay_sentence(report: ReplayReport) -> str:
    """Say whether the backlog is drained, and what came of it."""
    outcome = "Dry run" if report.dry_run else "Drained" if report.drained else "Not drained"
    verb = "would be raised" if report.dry_run else "raised"
    dead = f", {counted(report.dead, 'dead letter')}" if report.dead else ""
    raised = counted(report.raised, "conversation")
    return f"{outcome}: {_entries(report.read)} read, {raised} {verb}{dead}"


def backlog_sentence(found: StreamStatus) -> str:
    """Say whether the service keeps up with the stream."""
    if found.group is None:
        return f"{found.verdict}: {'stream' if found.info is None else 'consumer group'} not found"
    unread = "an unknown number" if found.group.lag is None else f"{found.group.lag:,}"
    backlog = f"{unread} unread, {found.group.pending:,} pending"
    return f"{found.verdict}: {counted(found.alive, 'instance')} alive, {backlog}"


def full_audit_sentence(report: FullAudit) -> str:
    """Say whether readers see every message of every conversation, and how much is proved."""
    took = f"{counted(report.audited, 'conversation')} audited in {report.seconds:,.1f} s"
    if report.sample_unproven:
        took += f"; of the sample {counted(report.sample_unproven, 'conversation')} may be salted: topic audit"
    if report.found:
        return f"Found: {counted(report.found, 'conversation')} to look at; {took}"
    if report.oldest_age_s is None:
        return f"Nothing found so far: {took}; the first cycle is not complete"
    return f"Complete: readers see every message of what the registry has; {took}"


def audit_sentence(found: Audit, *, repaired: bool) -> str:
    """Say whether readers see every message."""
    name, missed = found.conversation_id, counted(found.orphaned, "message")
    if repaired:
        done = "has" if found.damage else "was raised to"
        return f"Repaired: {name} {done} {counted(found.needed_n, 'salt')}; readers see {missed} more"
    if found.damage:
        return f"Damaged: {found.damage}; {name} needs {counted(found.needed_n, 'salt')}"
    if found.orphaned:
        return f"Incomplete: readers miss {missed} of {name}"
    return f"Complete: readers see every message of {name}"
