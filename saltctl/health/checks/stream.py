"""Checks of the heat stream and of those who read it."""

from __future__ import annotations

from saltctl.detection.service import CLAIM_IDLE
from saltctl.detection.stream_status import is_alive
from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, combine, fail, ok, skip, warn
from saltctl.stores.heat.stream import GROUP, GroupInfo


def _group(facts: Facts) -> GroupInfo | None:
    info = facts.stream.info
    return None if info is None else info.group(GROUP)


def group(facts: Facts) -> Finding:
    """The heat stream and its consumer group are there."""
    if _group(facts) is None:
        what = "no heat stream" if facts.stream.info is None else f"no consumer group {GROUP!r} on the heat stream"
        return fail(f"there is {what}: heat reports go nowhere", facts.fix_commands.saltctl("setup"))
    return ok(f"group {GROUP} of {facts.stream.key}")


def consumers(facts: Facts) -> Finding:
    """At least one instance of the service lives, and no dead one holds entries."""
    found = _group(facts)
    if found is None:
        return skip("see stream-group")
    alive = [consumer for consumer in found.consumers if is_alive(consumer.idle_s)]
    if not alive:
        return fail(
            "no instance of the service is alive: nobody raises what becomes hot",
            facts.fix_commands.saltctl("service", "run"),
            service_instances=0,
        )
    abandoned = [c for c in found.consumers if c.pending and c.idle_s > CLAIM_IDLE and not is_alive(c.idle_s)]
    if abandoned:
        names = ", ".join(f"{consumer.name} ({consumer.pending:,})" for consumer in abandoned[:5])
        return warn(
            f"instances that died still hold entries: {names}",
            facts.fix_commands.saltctl("stream", "replay"),
            service_instances=len(alive),
        )
    return ok(f"{len(alive)} alive", service_instances=len(alive))


def lag(facts: Facts) -> Finding:
    """What is reported is handled within seconds."""
    found = _group(facts)
    if found is None:
        return skip("see stream-group")
    if found.lag is None:
        return skip("Redis cannot say how much is unread")
    measures = {"stream_lag": float(found.lag), "stream_pending": float(found.pending)}
    detail = f"{found.lag:,} unread, {found.pending:,} pending"
    replay = facts.fix_commands.saltctl("stream", "replay")
    findings = []
    verdict = facts.stream.verdict
    if verdict == "stalled" or (verdict == "stopped" and found.lag + found.pending):
        findings.append(fail(f"{detail}: none of it is handled", replay, **measures))
    elif verdict == "lagging":
        findings.append(warn(f"{detail}: more arrives than is handled", replay, **measures))
    else:
        findings.append(ok(detail, **measures))
    if found.loss is not None:
        lost = f"{found.loss.entries:,} entries were trimmed before anybody had read them"
        findings.append(warn(lost, facts.fix_commands.saltctl("stream", "status")))
    return combine(findings)


def dead_letters(facts: Facts) -> Finding:
    """No entry was set aside that nothing could be done with."""
    count = facts.dead_letters
    if not count:
        return ok("none", dead_letters=0)
    entries = "entry" if count == 1 else "entries"
    detail = f"{count:,} {entries} could not be handled; look at the reasons, then requeue or drop"
    return warn(detail, facts.fix_commands.saltctl("stream", "dead", "list"), dead_letters=count)
