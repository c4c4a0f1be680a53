"""Checks of the heat stream and its consumers."""

from __future__ import annotations

from saltctl.detection.read_order import CLAIM_IDLE
from saltctl.detection.stream_status import is_alive
from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, combine, fail, ok, skip, warn
from saltctl.stores.heat.stream import GROUP


def group(facts: Facts) -> Finding:
    """The heat stream and its consumer group exist."""
    if facts.stream.group is None:
        missing = "heat stream" if facts.stream.info is None else f"consumer group {GROUP!r} on the heat stream"
        return fail(f"there is no {missing}: heat reports are lost", facts.fix_commands.saltctl("setup", "--stream"))
    return ok(f"group {GROUP} of {facts.stream.key}")


def consumers(facts: Facts) -> Finding:
    """An instance of the service is alive, all its parts work, and no dead instance holds entries."""
    found = facts.stream.group
    if found is None:
        return skip("see stream-group")
    alive = [consumer for consumer in found.consumers if is_alive(consumer.idle_s)]
    if not alive:
        fix = facts.fix_commands.saltctl("service", "run")
        return fail("no instance of the service is alive: hot conversations are not raised", fix, service_instances=0)
    if late := facts.stream.late_parts:
        detail = f"parts of the service have not done their work for a while: {'; '.join(late[:5])}; see its log"
        return fail(detail, facts.fix_commands.saltctl("service", "status"), service_instances=len(alive))
    abandoned = [c for c in found.consumers if c.pending and c.idle_s > CLAIM_IDLE and not is_alive(c.idle_s)]
    if abandoned:
        names = ", ".join(f"{consumer.name} ({consumer.pending:,})" for consumer in abandoned[:5])
        fix = facts.fix_commands.saltctl("stream", "replay")
        return warn(f"dead instances still hold entries: {names}", fix, service_instances=len(alive))
    return ok(f"{len(alive)} alive", service_instances=len(alive))


def lag(facts: Facts) -> Finding:
    """Heat reports are processed within seconds."""
    found = facts.stream.group
    if found is None:
        return skip("see stream-group")
    status = facts.fix_commands.saltctl("stream", "status")
    lost = [warn(warning, status) for warning in facts.stream.warnings]
    if found.lag is None:
        return combine([skip("Redis does not know the number of unread entries"), *lost])
    measures = {"stream_lag": float(found.lag), "stream_pending": float(found.pending)}
    detail = f"{found.lag:,} unread, {found.pending:,} pending"
    replay = facts.fix_commands.saltctl("stream", "replay")
    verdict = facts.stream.verdict
    if verdict == "stalled" or (verdict == "stopped" and found.lag + found.pending):
        finding = fail(f"{detail}: none is being processed", replay, **measures)
    elif verdict == "lagging":
        finding = warn(f"{detail}: more arrives than is processed", replay, **measures)
    else:
        finding = ok(detail, **measures)
    return combine([finding, *lost])


def dead_letters(facts: Facts) -> Finding:
    """There are no dead letters."""
    count = facts.dead_letters
    if not count:
        return ok("none", dead_letters=0)
    entries = "entry" if count == 1 else "entries"
    detail = f"{count:,} {entries} could not be processed; check the reasons, then requeue or drop"
    return warn(detail, facts.fix_commands.saltctl("stream", "dead", "list"), dead_letters=count)
