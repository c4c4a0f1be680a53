"""Findings of checks, and how several of them are combined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "warn", "fail", "skip"]
WORST_FIRST: tuple[Status, ...] = ("fail", "warn", "ok", "skip")
SKEW_WARN, SKEW_FAIL = 5.0, 60.0
"""Seconds. Leases and heat windows depend on clocks; a lease expires after 30 s."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of a check.

    ``fix`` is a shell command, or empty. ``measures`` are numbers for monitoring. ``check`` is the check's name, and
    empty until the doctor sets it.
    """

    status: Status
    detail: str
    fix: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)
    check: str = ""


def ok(detail: str, **measures: float) -> Finding:
    """Report that all is well."""
    return Finding("ok", detail, measures=measures)


def warn(detail: str, fix: str, **measures: float) -> Finding:
    """Report a problem that does not break the promise."""
    return Finding("warn", detail, fix, measures)


def fail(detail: str, fix: str, **measures: float) -> Finding:
    """Report a problem that affects users, or will at the next outage."""
    return Finding("fail", detail, fix, measures)


def skip(detail: str) -> Finding:
    """Report that a check cannot be made or does not apply, and why."""
    return Finding("skip", detail)


def combine(findings: Iterable[Finding]) -> Finding:
    """Combine findings of one check: the worst status, each detail once, and all fixes in one command line.

    The details of findings that are ok are omitted if another one is not.
    """
    found = list(findings)
    if not found:
        return skip("there is nothing to check")
    worst = min((finding.status for finding in found), key=WORST_FIRST.index)
    shown = [finding for finding in found if finding.status == worst or finding.fix]
    measures = {name: value for finding in found for name, value in finding.measures.items()}
    return Finding(
        worst,
        "; ".join(dict.fromkeys(finding.detail for finding in shown)),
        " && ".join(dict.fromkeys(finding.fix for finding in shown if finding.fix)),
        measures,
    )


def clock_skew(clock: str, skew: float, measure: str) -> Finding:
    """Rate a clock that is ``skew`` seconds ahead of this machine's; ``measure`` names the skew for monitoring."""
    detail = f"{clock} and the clock of this machine differ by {abs(skew):,.1f} s"
    measures = {measure: round(skew, 3)}
    if abs(skew) < SKEW_WARN:
        return ok(detail, **measures)
    detail += f", {'theirs' if skew > 0 else 'ours'} is ahead: leases and heat windows depend on clocks"
    rate = fail if abs(skew) >= SKEW_FAIL else warn
    return rate(detail, "sudo timedatectl set-ntp true", **measures)
