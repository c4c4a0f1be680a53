"""How hot each conversation was in each minute, and what was done about it. No server is asked here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saltctl.incident.timeline import Event, Source
from saltctl.stores.contracts.raise_reasons import is_repair
from saltctl.stores.contracts.registry import MAX_RAISES_KEPT, BackupEntry
from saltctl.stores.heat.report import WINDOW_SECONDS, HeatReport
from saltctl.times import iso_utc, parse_iso

MINUTE = 60
LATE_SECONDS = 300
"""A report that replaces an earlier one of its server comes within this time: a meter sends it again after an outage.
One that comes later is counted twice."""
Windows = dict[tuple[str, str], int]
"""The writes of each conversation and server in one window."""
Peak = tuple[int, int]
"""The most write units in a second, and that second, since the epoch."""


@dataclass(eq=False)
class MinuteSums:
    """Adds up reports by conversation and minute. A later report of a server for a window replaces its earlier one.

    ``writes`` are write units in a minute; ``peaks`` the most in one second of it, and that second. Both have the start
    of the minute, in seconds since the epoch, as key. ``throttled`` has each minute in which a server was throttled,
    and its N. ``windows`` are not added up yet: a report of them may be replaced. The range ends before ``until``.
    """

    since: int
    until: int
    writes: defaultdict[str, defaultdict[int, int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int))
    )
    peaks: defaultdict[str, dict[int, Peak]] = field(default_factory=lambda: defaultdict(dict))
    throttled: defaultdict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    reports: int = 0
    windows: dict[int, Windows] = field(default_factory=dict)
    _newest: int = 0

    def add(self, reports: Iterable[HeatReport]) -> None:
        """Add the reports of the range; others are left out."""
        for report in reports:
            if self.since <= report.window < self.until:
                self._add(report)
        for window in list(self.windows):
            self._close(window)

    def _add(self, report: HeatReport) -> None:
        self.reports += 1
        self.windows.setdefault(report.window, {})[report.conversation_id, report.server] = report.writes
        if report.throttled_n:
            self.throttled[report.conversation_id][report.window // MINUTE * MINUTE] = report.throttled_n
        if report.window > self._newest:
            self._newest = report.window
            for window in [one for one in self.windows if one < report.window - LATE_SECONDS]:
                self._close(window)

    def _close(self, window: int) -> None:
        """Add up one window."""
        sums: Counter[str] = Counter()
        for (conversation_id, _), writes in self.windows.pop(window).items():
            sums[conversation_id] += writes
        minute = window // MINUTE * MINUTE
        for conversation_id, writes in sums.items():
            self.writes[conversation_id][minute] += writes
            peak = writes // WINDOW_SECONDS, window
            self.peaks[conversation_id][minute] = max(self.peaks[conversation_id].get(minute, peak), peak)


@dataclass(frozen=True, slots=True)
class SaltCounts:
    """How many salts a conversation had, by the raises that its entry in the backup keeps.

    ``steps``: time in seconds since the epoch, N for readers and N for writers from then on. ``first``: N before the
    first step, None if it is not known.
    """

    steps: tuple[tuple[float, int, int], ...] = ()
    first: int | None = 1

    def max_n(self, at: float) -> int | None:
        """Return how many salts readers read at a time; None if it is not known."""
        return next((n for since, n, _ in reversed(self.steps) if since <= at), self.first)

    def write_n(self, at: float) -> int | None:
        """Return over how many salts new messages were spread at a time; None if it is not known."""
        return next((n for since, _, n in reversed(self.steps) if since <= at), self.first)


def salt_counts(entry: BackupEntry | None) -> SaltCounts:
    """Return the salt counts of an entry: what was before a repair, a recovery or the oldest raise is not known."""
    if entry is None:
        return SaltCounts()
    steps: list[tuple[float, int, int]] = []
    whole = any(raised.n >= entry.max_n and not raised.cooled for raised in entry.raises)
    known = 1 if whole else entry.max_n  # else the raise to it is not kept
    for raised in entry.raises:
        try:
            at = parse_iso(raised.at).timestamp()
        except ValueError:  # a time that was edited by hand
            return SaltCounts((), None)
        before = steps[-1][1] if steps else known
        steps.append((at, before if raised.cooled else max(before, raised.n), raised.n))
    lacks = bool(entry.raises) and (
        len(entry.raises) >= MAX_RAISES_KEPT or entry.raises[0].cooled or is_repair(entry.raises[0].reason)
    )
    return SaltCounts(tuple(sorted(steps)), None if lacks else known)


@dataclass(frozen=True, slots=True)
class ConversationHeat:
    """One conversation, or the whole table if ``conversation_id`` is None.

    ``writes`` and ``peaks`` are as in :class:`MinuteSums`. ``events`` are of the kinds ``raise``, ``cooled`` and
    ``throttled``, in the order of time.
    """

    conversation_id: str | None
    writes: Mapping[int, int]
    peaks: Mapping[int, Peak]
    events: Sequence[Event]
    counts: SaltCounts = SaltCounts()

    def minutes(self) -> list[int]:
        """Return the minutes with writes or events, in order."""
        return sorted({*self.writes, *(minute_of(event) for event in self.events)})

    def load(self, minute: int, wps_per_salt: int) -> tuple[float, bool]:
        """Return the hottest second of a minute, as a share of what the salts took in it, and whether N is known.

        If it is not, the share is that of one salt.
        """
        writes, at = self.peaks.get(minute, (0, minute))
        n = self.counts.write_n(at)
        return writes / (wps_per_salt * (n or 1)), n is not None

    def highest_load(self, wps_per_salt: int) -> float:
        """Return the load of the hottest second of all, 0 without a report or without a known N."""
        loads = (self.load(minute, wps_per_salt) for minute in self.peaks)
        return max((share for share, known in loads if known), default=0.0)


def minute_of(event: Event) -> int:
    """Return the start of an event's minute, in seconds since the epoch."""
    return int(event.at) // MINUTE * MINUTE


@dataclass(frozen=True, slots=True)
class HeatMap:
    """The heat of a range of whole minutes, in seconds since the epoch; ``until`` is excluded.

    ``conversations``: first the whole table, if it was throttled; then those with more writes than their salts take, or
    with an event; then the others; those with the highest load first. ``more``: how many others were reported, or have
    an event. ``reports`` that were read. ``heat_since``: from when on all reports are there; None without any.
    """

    since: int
    until: int
    conversations: tuple[ConversationHeat, ...]
    sources: tuple[Source, ...]
    more: int = 0
    reports: int = 0
    heat_since: float | None = None

    def is_known(self, minute: int) -> bool:
        """Return whether the reports of a minute are still there."""
        return self.heat_since is not None and minute + MINUTE > self.heat_since

    def as_records(self) -> list[dict[str, Any]]:
        """Convert to the keys of the command line's contract: one record for each minute that has anything."""
        return [
            {
                "conversation_id": one.conversation_id,
                "minute": iso_utc(minute, "seconds"),
                **self._numbers(one, minute),
                "events": [
                    {"at": iso_utc(event.at), "kind": event.kind, "detail": event.detail}
                    for event in one.events
                    if minute_of(event) == minute
                ],
            }
            for one in self.conversations
            for minute in one.minutes()
        ]

    def _numbers(self, one: ConversationHeat, minute: int) -> dict[str, int | None]:
        """Return the numbers of a minute; None for what is not known, and for the whole table."""
        names = ("writes", "max_n", "write_n", "peak")
        if one.conversation_id is None:
            return dict.fromkeys(names)
        last = minute + MINUTE - 1
        none = 0 if self.is_known(minute) else None
        numbers = (
            one.writes.get(minute, none),
            one.counts.max_n(last),
            one.counts.write_n(last),
            one.peaks[minute][0] if minute in one.peaks else none,
        )
        return dict(zip(names, numbers, strict=True))
