"""The timeline of an incident, and how long it took to detect and to cure it. No server is asked here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saltctl.errors import SaltctlError
from saltctl.throttling.analysis import CAUSES, ThrottleAnalysis
from saltctl.times import iso_utc

QUIET_SECONDS = 600.0
"""Seconds without a throttled period after which throttling has ended. CloudWatch may lack the newest minutes."""
_DETECTIONS = ("raise", "unverified", "rebuilt", "verified")
_LOSSES = {"unverified": "verified", "backup-lost": "recovered"}
"""What an incident without throttling begins with, and the event that ends it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``at`` is in seconds since the epoch; ``conversation_id`` is None if it is not about one."""

    at: float
    kind: str
    conversation_id: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A source of events: since when it has data, in seconds since the epoch, None without any; or its error."""

    name: str
    since: float | None = None
    error: SaltctlError | None = None


@dataclass(frozen=True, slots=True)
class Throttling:
    """Throttled periods without a quiet time between them: seconds since the epoch, the end excluded."""

    start: float
    end: float
    ended: bool
    causes: Mapping[str, float]
    total: float


def find_throttling(found: ThrottleAnalysis, now: float) -> list[Throttling]:
    """Return the throttling of a range, in the order of time."""
    over = found.time_range
    totals = dict(zip(range(over.start, over.end, over.period_s), found.events_per_period(), strict=True))
    by_cause = {cause: dict(zip(totals, found.events_per_period(cause), strict=True)) for cause in CAUSES}
    quiet = max(QUIET_SECONDS, over.period_s)
    groups: list[list[int]] = []
    for at in (at for at, events in totals.items() if events):
        if groups and at - (groups[-1][-1] + over.period_s) < quiet:
            groups[-1].append(at)
        else:
            groups.append([at])
    known_until = min(now, over.end)
    return [
        Throttling(
            group[0],
            (end := group[-1] + over.period_s),
            known_until - end >= quiet,
            {cause: count for cause in CAUSES if (count := sum(by_cause[cause][at] for at in group))},
            sum(totals[at] for at in group),
        )
        for group in groups
    ]


def throttling_events(throttling: Sequence[Throttling]) -> Iterator[Event]:
    """Yield the begin of each throttling, and its end if it has ended."""
    for one in throttling:
        causes = ", ".join(f"{cause.replace('_', ' ')} {count:,.0f}" for cause, count in one.causes.items())
        yield Event(one.start, "throttling", None, f"{one.total:,.0f} throttle events ({causes or 'cause unknown'})")
        if one.ended:
            yield Event(
                one.end, "throttling-ended", None, f"{_minutes(one.end - one.start)} min after its first minute"
            )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.0f}"


@dataclass(frozen=True, slots=True)
class Incident:
    """What happened between ``since`` and ``until``, in seconds since the epoch, in the order of time.

    The incident that is measured is the first throttling, or without any the first time that Redis was found
    unverified, or the backup table lost. ``measured`` is the kind of its first event, None without an incident.

    - ``detected_s``: from the begin of the first throttled period to the first raise, or first event of the fence, from
      then on and before the quiet time that follows ended. None for what was lost: that is noted when it is found, by a
      rebuild or a recovery, and when it was lost is not known.
    - ``cured_s``: from the begin of the first throttled period to the end of the last one before ten quiet minutes; or
      from when it was found, the event ``unverified``, to the next ``verified``, or from ``backup-lost`` to
      ``recovered``. None if it is not over.

    CloudWatch counts by the period, ``resolution_s`` (a minute at best), so both may be too long by as much.
    """

    since: float
    until: float
    resolution_s: int
    events: tuple[Event, ...]
    sources: tuple[Source, ...]
    measured: str | None = None
    detected_s: float | None = None
    cured_s: float | None = None

    def as_record(self) -> dict[str, Any]:
        """Convert to the keys of the command line's contract."""
        return {
            "detected_s": self.detected_s,
            "cured_s": self.cured_s,
            "events": [
                {
                    "at": iso_utc(event.at),
                    "kind": event.kind,
                    "conversation_id": event.conversation_id,
                    "detail": event.detail or None,
                }
                for event in self.events
            ],
            "measured": self.measured,
            "resolution_s": self.resolution_s,
            "since": iso_utc(self.since),
            "until": iso_utc(self.until),
            "sources": [
                {
                    "name": source.name,
                    "since": None if source.since is None else iso_utc(source.since),
                    "error": source.error and source.error.message,
                }
                for source in self.sources
            ],
        }


def measure(events: Sequence[Event], throttling: Sequence[Throttling]) -> tuple[str | None, float | None, float | None]:
    """Return ``measured``, ``detected_s`` and ``cured_s`` of an :class:`Incident`; the events are in order."""
    if throttling:
        first = throttling[0]
        before = first.end + QUIET_SECONDS if first.ended else float("inf")
        found = (event.at for event in events if event.kind in _DETECTIONS and first.start <= event.at < before)
        detected = next(found, None)
        cured = float(first.end - first.start) if first.ended else None
        return "throttling", None if detected is None else round(detected - first.start, 3), cured
    lost = next((event for event in events if event.kind in _LOSSES), None)
    if lost is None:
        return None, None, None
    ends = (event.at for event in events if event.kind == _LOSSES[lost.kind] and event.at >= lost.at)
    cured = next(ends, None)
    return lost.kind, None, None if cured is None else round(cured - lost.at, 3)
