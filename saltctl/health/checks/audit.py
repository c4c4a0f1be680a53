"""Doctor check of the audit of all conversations."""

from __future__ import annotations

import shlex

from saltctl.errors import CheckpointRefusedError
from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, fail, ok, skip, warn
from saltctl.history.full_audit.state import MISSING, AuditState, age

OLD_SECONDS = 7 * 86400.0
_RUN = ("history", "audit", "--all")


def audit(facts: Facts) -> Finding:
    """The audit of all conversations found nothing, and is less than a week old."""
    try:
        state = facts.full_audit
    except CheckpointRefusedError as exc:
        return warn(exc.message, facts.fix_commands.saltctl(*_RUN, "--restart"))
    if state is None:
        return skip(f"never run: {facts.fix_commands.saltctl(*_RUN)}")
    measures = _measures(state, facts.now())
    # Those that mean that readers miss messages are the first ones.
    found = sorted(state.findings, key=lambda finding: finding.kind not in MISSING)
    if found:
        first, missed = found[0], sum(finding.kind in MISSING for finding in found)
        fix = facts.fix_commands.saltctl(*shlex.split(first.command)[1:]) if first.command else ""
        name = f"such as {first.conversation_id!r:.100}"
        if missed:
            return fail(f"readers miss messages: conversations {missed:,}, {name} ({first.kind})", fix, **measures)
        detail = f"conversations to look at: {state.found:,}, {name}: {first.detail or first.kind}"
        return warn(detail, fix, **measures)
    proven, now = state.proven, facts.now()
    since = state.began if proven is None else proven
    if since is not None and now - since > OLD_SECONDS:
        days = f"{(now - since) / 86400:,.0f} days"
        detail = f"no cycle was completed in {days}" if proven is None else f"the oldest audit is {days} old"
        return warn(detail, facts.fix_commands.saltctl(*_RUN), **measures)
    if proven is None:
        return ok(f"nothing found so far: conversations {state.audited:,}; the first cycle is not complete", **measures)
    return ok(f"all conversations within {(now - proven) / 3600:,.1f} h", **measures)


def _measures(state: AuditState, now: float) -> dict[str, float]:
    ages = {
        "audit_oldest_age_seconds": age(state.proven, now),
        "audit_sample_age_seconds": age(state.sample.complete, now),
    }
    return {"audit_found": float(state.found)} | {name: value for name, value in ages.items() if value is not None}
