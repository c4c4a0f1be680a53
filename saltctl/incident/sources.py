"""Reads the timeline of an incident from CloudWatch, Redis and the backup. Each source may fail by itself."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field

from saltctl.commands import hint_of
from saltctl.errors import SaltctlError
from saltctl.incident.timeline import (
    Event,
    Heat,
    Incident,
    Source,
    Throttling,
    find_losses,
    find_throttling,
    measure,
    throttling_events,
)
from saltctl.registry.failures import read_undamaged
from saltctl.salting import is_conversation_id, split_partition_key
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.metrics import MetricsStore
from saltctl.stores.contracts.raise_reasons import is_recovered, is_repair
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.event_log import EventsItem
from saltctl.stores.heat.contracts import id_order
from saltctl.stores.heat.report import BadReportError, HeatReport, parse
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.throttling.analysis import TimeRange, analyse, metric_keys
from saltctl.times import parse_iso

MAX_REPORTS = 50_000
"""Heat reports that are read, the oldest of the range first."""
_PAGE = 5000
MAX_CONVERSATIONS = 1000
"""Conversations whose raises are read."""
MAX_HEAT_EVENTS = 100
"""Conversations with an event of their heat: the hottest ones."""


@dataclass(eq=False)
class IncidentReader:
    """Reads incidents.

    Args:
        metrics: CloudWatch.
        stream, state: what Redis remembers: heat reports and the latest raises.
        backup: has the events that Redis would lose, and the raises of each conversation.
        named: conversations whose raises are shown, in addition to those that the sources name.
    """

    settings: Settings
    metrics: MetricsStore
    stream: HeatStream
    state: ServiceState
    backup: BackupTable
    _: KW_ONLY
    named: Collection[str] = ()
    now: Callable[[], float] = time.time
    _ids: dict[str, None] = field(default_factory=dict, init=False)
    _hot: dict[str, tuple[float, float]] = field(default_factory=dict, init=False)
    """The first and last hot second of each conversation that was reported."""
    _throttled: set[str] = field(default_factory=set, init=False)
    """The conversations of the partition keys that DynamoDB throttled."""

    def read(self, since: float, until: float, over: TimeRange) -> Incident:
        """Read what happened in a range, in seconds since the epoch. ``over`` has its whole periods of CloudWatch.

        Raises:
            SaltctlError: no source can be read (:func:`no_source`).
        """
        self._ids, self._hot, self._throttled = dict.fromkeys(self.named), {}, set()
        throttling: list[Throttling] = []
        events: list[Event] = []
        sources = [
            read_source("throttling", lambda: self._read_throttling(over, throttling)),
            read_source("heat", lambda: self._read_heat(since, until, events)),
            read_source("events", lambda: self._read_backup(events)),
        ]
        errors = [source.error for source in sources if source.error is not None]
        if len(errors) == len(sources):
            raise no_source(errors)
        events = sorted((event for event in events if event.at <= until), key=lambda event: event.at)
        inside = [event for event in events if since <= event.at]
        ordered = sorted([*inside, *throttling_events(throttling)], key=lambda event: event.at)
        _, reports, backup = sources
        heat = Heat(self._hot, self._throttled, reports.since, float("inf") if backup.error else backup.since)
        measures = measure(ordered, throttling, heat)
        losses = tuple(find_losses(events, throttling, since))
        return Incident(since, until, over.period_s, tuple(ordered), tuple(sources), *measures, losses)

    def _name(self, conversation_ids: Iterable[str]) -> None:
        """Have the raises of conversations read. What others wrote may be no id."""
        self._ids.update((one, None) for one in conversation_ids if is_conversation_id(one))

    # CloudWatch.

    def _read_throttling(self, over: TimeRange, throttling: list[Throttling]) -> float | None:
        """Add the throttling of the messages table; return the time of the first data, even before the range."""
        table = self.settings.messages_table
        keys = metric_keys(table, self.metrics.describe(table).indexes)
        series = self.metrics.read(keys, over.baseline_start, over.end, over.period_s)
        throttling += find_throttling(analyse(series, over, 1.0), self.now())
        if throttling:
            hot = self.metrics.contributors(table, over.start, over.end).keys
            self._throttled = {split_partition_key(key)[0] for key, _ in hot}
            self._name(self._throttled)
        return min((float(at) for one in series for at, _ in one.points), default=None)

    # Redis.

    def _read_heat(self, since: float, until: float, events: list[Event]) -> float | None:
        """Add the heat of conversations above the limit of their salts; return the time of the oldest report."""
        latest = self.state.last_raises()
        self._name(raised["conversation_id"] for raised in latest if isinstance(raised["conversation_id"], str))
        found = list(self._heat_events(read_reports(self.stream, since, until, MAX_REPORTS, self.now())))
        self._name(event.conversation_id for event in found if event.conversation_id is not None)
        events += found
        return oldest_report(self.stream)

    def _heat_events(self, reports: Iterable[HeatReport]) -> Iterator[Event]:
        """Yield an event for each of the hottest conversations: its first window above the writes of one salt."""
        limit = self.settings.wps_per_salt
        windows: defaultdict[tuple[str, int], dict[str, int]] = defaultdict(dict)
        throttled: dict[str, tuple[int, int]] = {}
        for report in reports:
            windows[report.conversation_id, report.window][report.server] = report.writes  # the last report counts
            if report.throttled_n:
                self._add_heat(report.conversation_id, report.window)
                throttled.setdefault(report.conversation_id, (report.window, report.throttled_n))
        first: dict[str, int] = {}
        peaks: dict[str, int] = {}
        for (conversation_id, window), servers in sorted(windows.items(), key=lambda item: item[0][1]):
            if (writes := sum(servers.values())) > limit:
                self._add_heat(conversation_id, window)
                first.setdefault(conversation_id, window)
                peaks[conversation_id] = max(writes, peaks.get(conversation_id, 0))
        for conversation_id in sorted(peaks, key=lambda one: -peaks[one])[:MAX_HEAT_EVENTS]:
            detail = f"up to {peaks[conversation_id]:,} write units a second; a salt takes {limit:,}"
            yield Event(float(first[conversation_id]), "heat", conversation_id, detail)
        for conversation_id in list(throttled)[:MAX_HEAT_EVENTS]:
            window, n = throttled[conversation_id]
            yield Event(float(window), "heat", conversation_id, f"a server was throttled while N was {n:,}")

    def _add_heat(self, conversation_id: str, window: int) -> None:
        first, last = self._hot.get(conversation_id, (window, window))
        self._hot[conversation_id] = min(first, window), max(last, window)

    # The backup.

    def _read_backup(self, events: list[Event]) -> float | None:
        """Add the events of the backup, and the raises of all conversations that are named by now."""
        logged = EventsItem(self.backup).read()
        for event in logged.events:
            self._name(event.conversation_ids)
            if event.kind not in ("raise", "cooled", "repaired"):
                events.append(Event(event.at, event.kind, None, event.detail))
            elif event.more:
                events.append(Event(event.at, event.kind, None, f"{event.more:,} more conversations {event.detail}"))
            if event.kind == "repaired":  # the raises are read below, with their own times
                events += (Event(event.at, "repaired", one, event.detail) for one in event.conversation_ids)
        recovered = max((event.at for event in logged.events if event.kind == "recovered"), default=0.0)
        entries, _ = read_undamaged(self.backup, list(self._ids)[:MAX_CONVERSATIONS])
        for conversation_id, entry in entries.items():
            for raised in entry.raises:
                with suppress(ValueError):  # a time that was edited by hand
                    at = parse_iso(raised.at).timestamp()
                    # The event `recovered` counts them all, and the entries of few of them are read here.
                    if not (is_recovered(raised.reason) and at <= recovered):
                        events.append(raise_event(at, conversation_id, raised))
        return logged.since


def read_source(name: str, read: Callable[[], float | None]) -> Source:
    """Read one source; its error does not end the others."""
    try:
        return Source(name, read())
    except SaltctlError as exc:
        return Source(name, None, exc)


def no_source(errors: Sequence[SaltctlError]) -> SaltctlError:
    """Return the error of the first source, which also says what is wrong with others, once for each kind of error."""
    kinds: dict[type[SaltctlError], SaltctlError] = {}
    for error in errors:
        kinds.setdefault(type(error), error)
    message = "; ".join(error.message for error in kinds.values())
    return type(errors[0])(message, hint=hint_of(*(error.hint for error in kinds.values())))


def oldest_report(stream: HeatStream) -> float | None:
    """Return when the oldest heat report was added, in seconds since the epoch; None without any."""
    oldest = stream.range("-", "+", 1)
    return id_order(oldest[0].id)[0] / 1000 if oldest else None


def read_reports(stream: HeatStream, since: float, until: float | None, most: int, now: float) -> Iterator[HeatReport]:
    """Yield the reports that were added between two times, the oldest first; about ``most`` of them."""
    start, end = f"{max(int(since * 1000), 0)}", "+" if until is None else f"{max(int(until * 1000), 0)}"
    found = 0
    while True:
        page = stream.range(start, end, _PAGE)
        for entry in page:
            reports = []
            with suppress(BadReportError):
                reports = parse(entry.fields or [], now)
            yield from reports
            found += max(len(reports), 1)
            if found >= most:
                return
        if len(page) < _PAGE:
            return
        start = f"({page[-1].id}"


def raise_event(at: float, conversation_id: str, raised: Raise) -> Event:
    """Return the event of a raise or a cool-down."""
    by = f"to {raised.n:,} by {raised.by}"
    detail = f"{by}: {raised.reason}" if raised.reason else by
    if raised.cooled:
        return Event(at, "cooled", conversation_id, detail)
    return Event(at, "raise", conversation_id, detail, is_repair(raised.reason))
