"""The timeline of an incident, and how long it took to detect and to cure it. No server is asked here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from saltctl.errors import SaltctlError
from saltctl.throttling.analysis import CAUSES, ThrottleAnalysis
from saltctl.times import iso_utc

QUIET_SECONDS = 600.0
"""Seconds without a throttled period after which throttling has ended. CloudWatch may lack the newest minutes."""
_LOSSES = {"unverified": "verified", "backup-lost": "recovered"}
"""What can be lost, and the event that ends it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``at`` is in seconds since the epoch; ``conversation_id`` is None if it is not about one.

    ``repair``: this raise restored an N that was known before, and says nothing about heat.
    """

    at: float
    kind: str
    conversation_id: str | None = None
    detail: str = ""
    repair: bool = False


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


@dataclass(frozen=True, slots=True)
class Heat:
    """Which conversations were hot, to attribute raises to throttling. Times are in seconds since the epoch.

    ``windows``: the first and last hot second of each conversation that was reported. ``throttled``: conversations of
    the partition keys that DynamoDB throttled. ``since``: from when on all reports are there; None without any.
    ``raises_since``: from when on the backup names what was raised; infinity if it cannot be read.
    """

    windows: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    throttled: Collection[str] = ()
    since: float | None = None
    raises_since: float | None = None

    def is_met_by(self, event: Event, start: float) -> bool:
        """Return whether the event raised a conversation that was hot after throttling began at ``start``."""
        if event.kind != "raise" or event.repair or event.conversation_id is None or event.at < start:
            return False
        first, last = self.windows.get(event.conversation_id, (float("inf"), 0.0))
        return event.conversation_id in self.throttled or (first <= event.at and last >= start)

    def is_known(self, start: float) -> bool:
        """Return whether it is known what was hot from ``start`` on."""
        return bool(self.throttled) or (self.since is not None and self.since <= start)


@dataclass(frozen=True, slots=True)
class Loss:
    """What was lost ``count`` times, in the order of time: ``throttling``, ``unverified`` or ``backup-lost``.

    ``longest_s`` is the time to cure of the longest that is over, None if none is; ``over``: whether all of them are.
    """

    kind: str
    count: int
    longest_s: float | None
    over: bool


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

    - ``detected_s``: from the begin of the first throttled period to the first raise of a conversation that was hot,
      from then on and before the quiet time that follows ended. A repair, a recovery and an import detect nothing. None
      for what was lost: that is noted when it is found, by a rebuild or a recovery, and when it was lost is not known.
    - ``detected``: whether there was such a raise; None if that is unknown, or nothing was throttled.
    - ``cured_s``: from the begin of the first throttled period to the end of the last one before ten quiet minutes; or
      from when it was found, the event ``unverified``, to the next ``verified``, or from ``backup-lost`` to
      ``recovered``. None if it is not over.

    ``losses`` sums up each kind of them, also one that began before the range and was not over then.

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
    detected: bool | None = None
    losses: tuple[Loss, ...] = ()

    @property
    def unknown(self) -> list[str]:
        """The names of the sources that could not be read."""
        return [source.name for source in self.sources if source.error is not None]

    def as_record(self) -> dict[str, Any]:
        """Convert to the keys of the command line's contract; ``events`` is None if there may be some, unknown."""
        return {
            "detected_s": self.detected_s,
            "cured_s": self.cured_s,
            "events": None
            if self.unknown and not self.events
            else [
                {
                    "at": iso_utc(event.at),
                    "kind": event.kind,
                    "conversation_id": event.conversation_id,
                    "detail": event.detail or None,
                }
                for event in self.events
            ],
            "measured": self.measured,
            "detected": self.detected,
            "losses": [asdict(loss) for loss in self.losses],
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


def measure(
    events: Sequence[Event], throttling: Sequence[Throttling], heat: Heat
) -> tuple[str | None, float | None, float | None, bool | None]:
    """Return ``measured``, ``detected_s``, ``cured_s`` and ``detected`` of an :class:`Incident`.

    The events are in order.
    """
    if throttling:
        first = throttling[0]
        cured = float(first.end - first.start) if first.ended else None
        detected_s, detected = _detection(events, first, heat)
        return "throttling", detected_s, cured, detected
    lost = next((event for event in events if event.kind in _LOSSES), None)
    if lost is None:
        return None, None, None, None
    ends = (event.at for event in events if event.kind == _LOSSES[lost.kind] and event.at >= lost.at)
    cured = next(ends, None)
    return lost.kind, None, None if cured is None else round(cured - lost.at, 3), None


def _detection(events: Sequence[Event], first: Throttling, heat: Heat) -> tuple[float | None, bool | None]:
    """Return the seconds to the raise that met the throttling, and whether there was one; None if it is unknown."""
    before = first.end + QUIET_SECONDS if first.ended else float("inf")
    raises = [e for e in events if e.kind == "raise" and not e.repair and first.start <= e.at < before]
    met = next((event.at for event in raises if heat.is_met_by(event, first.start)), None)
    if met is not None:
        return round(met - first.start, 3), True
    if heat.is_known(first.start):  # then the entries of these conversations were read, if the backup could be
        lost = any(event.kind == "recovered" and event.at >= first.start for event in events)
        known = heat.raises_since != float("inf") and not lost
    else:  # what was raised may not have been hot
        known = not raises and heat.raises_since is not None and heat.raises_since <= first.start
    return None, False if known else None


def find_losses(events: Sequence[Event], throttling: Sequence[Throttling], since: float) -> Iterator[Loss]:
    """Yield what was lost from ``since`` on, or before and not over by then. The events are in order."""
    if throttling:
        spans = [(one.start, one.end if one.ended else None) for one in throttling]
        yield _sum_up("throttling", spans)
    for kind, cure in _LOSSES.items():
        starts: list[float] = []
        spans = []
        for event in events:
            if event.kind == kind and not starts:
                starts.append(event.at)
            elif event.kind == cure and starts:
                spans.append((starts.pop(), event.at))
        spans += [(start, None) for start in starts]
        if spans := [(start, end) for start, end in spans if end is None or end >= since]:
            yield _sum_up(kind, spans)


def _sum_up(kind: str, spans: Sequence[tuple[float, float | None]]) -> Loss:
    lengths = [end - start for start, end in spans if end is not None]
    return Loss(kind, len(spans), round(max(lengths), 3) if lengths else None, len(lengths) == len(spans))
