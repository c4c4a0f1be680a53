"""What a check finds, and how several findings make one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "warn", "fail", "skip"]
_WORST_FIRST: tuple[Status, ...] = ("fail", "warn", "ok", "skip")


@dataclass(frozen=True, slots=True)
class Finding:
    """``fix`` is a command for a shell, empty where all is well. ``measures`` are numbers for monitoring."""

    status: Status
    detail: str
    fix: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A finding under the name of its check."""

    name: str
    status: Status
    detail: str
    fix: str
    measures: Mapping[str, float]


def ok(detail: str, **measures: float) -> Finding:
    """All is well."""
    return Finding("ok", detail, measures=measures)


def warn(detail: str, fix: str, **measures: float) -> Finding:
    """The promise holds, and something is not as it should be."""
    return Finding("warn", detail, fix, measures)


def fail(detail: str, fix: str, **measures: float) -> Finding:
    """Users are affected, or will be when the next thing breaks."""
    return Finding("fail", detail, fix, measures)


def skip(detail: str) -> Finding:
    """It could not be found out, for this reason, or there is nothing to find out."""
    return Finding("skip", detail)


def combine(findings: Iterable[Finding]) -> Finding:
    """Several findings of one check as one: the worst status, each detail once, and all fixes in one line.

    What is well goes unsaid beside what is not.
    """
    found = list(findings)
    if not found:
        return skip("there is nothing to check")
    worst = min((finding.status for finding in found), key=_WORST_FIRST.index)
    told = [finding for finding in found if finding.status == worst or finding.fix]
    measures: dict[str, float] = {}
    for finding in found:
        measures.update(finding.measures)
    return Finding(
        worst,
        "; ".join(dict.fromkeys(finding.detail for finding in told)),
        " && ".join(dict.fromkeys(finding.fix for finding in told if finding.fix)),
        measures,
    )
