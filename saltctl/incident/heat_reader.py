"""Reads the picture of heat from Redis, the backup and CloudWatch. Each source may fail by itself."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from saltctl.incident.heat_map import MINUTE, ConversationHeat, HeatMap, MinuteSums, SaltCounts, salt_counts
from saltctl.incident.sources import MAX_CONVERSATIONS, no_source, oldest_report, raise_event, read_reports, read_source
from saltctl.incident.timeline import Event
from saltctl.registry.failures import read_undamaged
from saltctl.salting import is_conversation_id
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.metrics import MetricsStore
from saltctl.stores.event_log import EventsItem
from saltctl.stores.heat.report import MAX_REPORTS
from saltctl.stores.heat.stream import MAX_ENTRIES, HeatStream
from saltctl.throttling.analysis import TimeRange, analyse, metric_keys
from saltctl.times import parse_iso


@dataclass(eq=False)
class HeatReader:
    """Reads pictures of heat.

    Args:
        metrics: CloudWatch.
        stream: has the heat reports.
        backup: has the raises of each conversation, and which ones were raised.
    """

    settings: Settings
    metrics: MetricsStore
    stream: HeatStream
    backup: BackupTable
    now: Callable[[], float] = time.time
    _events: defaultdict[str, list[Event]] = field(default_factory=lambda: defaultdict(list), init=False)
    _counts: dict[str, SaltCounts] = field(default_factory=dict, init=False)
    _of_table: list[Event] = field(default_factory=list, init=False)

    def read(self, since: float, until: float, over: TimeRange, count: int) -> HeatMap:
        """Read a range, in seconds since the epoch, and return ``count`` conversations at most.

        ``over`` has the whole periods of CloudWatch.

        Raises:
            SaltctlError: no source can be read (:func:`no_source`).
        """
        self._events, self._counts, self._of_table = defaultdict(list), {}, []
        start, end = (int(since // MINUTE) * MINUTE, -int(-until // MINUTE) * MINUTE)
        sums = MinuteSums(start, end)
        sources = (
            read_source("heat", lambda: self._read_reports(sums)),
            read_source("events", lambda: self._read_raises(sums)),
            read_source("throttling", lambda: self._read_throttling(over)),
        )
        errors = [source.error for source in sources if source.error is not None]
        if len(errors) == len(sources):
            raise no_source(errors)
        for conversation_id, minutes in sums.throttled.items():
            self._events[conversation_id] += (
                Event(float(at), "throttled", conversation_id, f"a server was throttled while N was {n:,}")
                for at, n in minutes.items()
            )
        every = self._ranked([self._heat_of(one, sums) for one in sums.writes.keys() | self._events.keys()])
        found = every[:count]
        if self._of_table:
            found.insert(0, ConversationHeat(None, {}, {}, self._of_table))
        return HeatMap(start, end, tuple(found), sources, len(every[count:]), sums.reports, sources[0].since)

    def _ranked(self, found: list[ConversationHeat]) -> list[ConversationHeat]:
        """Return the conversations that were overloaded, or have an event, and then the others, by their load."""

        def rank(one: ConversationHeat) -> tuple[bool, float, int, str]:
            load = one.highest_load(self.settings.wps_per_salt)
            calm = load <= 1 and not one.events
            return calm, -load, -sum(one.writes.values()), one.conversation_id or ""

        return sorted(found, key=rank)

    def _heat_of(self, conversation_id: str, sums: MinuteSums) -> ConversationHeat:
        events = sorted(self._events.get(conversation_id, ()), key=lambda event: event.at)
        unknown = SaltCounts((), None)
        return ConversationHeat(
            conversation_id,
            sums.writes.get(conversation_id, {}),
            sums.peaks.get(conversation_id, {}),
            events,
            self._counts.get(conversation_id, unknown),
        )

    def _read_reports(self, sums: MinuteSums) -> float | None:
        # Until the end of the stream: reports are added late, and ids may be ahead of the clock.
        sums.add(read_reports(self.stream, sums.since, None, MAX_ENTRIES * MAX_REPORTS, self.now()))
        return oldest_report(self.stream)

    def _read_raises(self, sums: MinuteSums) -> float | None:
        """Read the raises of the hottest conversations, and of those whose raises are on record."""
        logged = EventsItem(self.backup).read()
        named = [
            conversation_id
            for event in reversed(logged.events)
            if event.kind in ("raise", "cooled") and sums.since <= event.at < sums.until
            for conversation_id in event.conversation_ids
            if is_conversation_id(conversation_id)
        ]
        hottest = sorted(sums.peaks, key=lambda one: max(sums.peaks[one].values()), reverse=True)
        ids = list(dict.fromkeys([*named, *hottest]))[:MAX_CONVERSATIONS]
        entries, damaged = read_undamaged(self.backup, ids)
        self._counts = {one: salt_counts(entries.get(one)) for one in ids if one not in damaged}
        for conversation_id, entry in entries.items():
            for raised in entry.raises:
                with suppress(ValueError):  # a time that was edited by hand
                    at = parse_iso(raised.at).timestamp()
                    if sums.since <= at < sums.until:
                        self._events[conversation_id].append(raise_event(at, conversation_id, raised))
        return logged.since

    def _read_throttling(self, over: TimeRange) -> float | None:
        """Add the throttled periods of the whole messages table."""
        table = self.settings.messages_table
        keys = metric_keys(table, self.metrics.describe(table).indexes)
        series = self.metrics.read(keys, over.start, over.end, over.period_s)
        events = analyse(series, over, 1.0).events_per_period()
        for at, throttled in zip(range(over.start, over.end, over.period_s), events, strict=True):
            if throttled:
                self._of_table.append(Event(float(at), "throttled", None, f"{throttled:,.0f} throttle events"))
        return min((float(at) for one in series for at, _ in one.points), default=None)
