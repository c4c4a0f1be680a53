"""Turn heat reports into raises: sum, decide, raise, acknowledge last. Used by the service and by replay.

Every step may run twice, late, or at the same time as another instance. A report counts once, max_n never goes
down, and an entry is acknowledged only when it needs no more work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from logging import ERROR, INFO, WARNING, NullHandler, getLogger
from typing import TYPE_CHECKING

from saltctl.errors import DamagedEntryError, RefusedError, SaltctlError
from saltctl.salting import needed_n, power_of_two_at_least
from saltctl.settings import Settings
from saltctl.stores.heat.contracts import Entry, ReportSums
from saltctl.stores.heat.report import BadReportError, HeatReport, parse

if TYPE_CHECKING:
    from saltctl.registry.registry import RaiseResult, Registry
    from saltctl.stores.heat.dead_letters import DeadLetters
    from saltctl.stores.heat.stream import HeatStream

MAX_REMEMBERED = 100_000
"""Conversations whose N is remembered. Without it every report of a hot conversation would repeat its raise."""
logger = getLogger("saltctl.detection")
logger.addHandler(NullHandler())


def log_event(level: int, event: str, **fields: object) -> None:
    """Log an event of the service or of replay, such as ``raised``: the record's message is its name.

    The record's attribute ``fields`` is a dict of plain values, which may contain hostile strings.
    """
    logger.log(level, event, extra={"fields": fields})


@dataclass
class Counters:
    """Totals of one process since its start. Written by its loop, read by status and metrics."""

    reports: int = 0
    acknowledged: int = 0
    stale: int = 0
    dead: int = 0
    lost: int = 0
    claimed: int = 0
    redelivered: int = 0
    raised: int = 0
    unchanged: int = 0
    clamped: int = 0
    failures: int = 0
    rebuilds: int = 0


@dataclass(frozen=True, slots=True)
class RaiseDecision:
    """The N that a conversation needs. ``rate`` is in write units a second; 0 if DynamoDB throttled it."""

    conversation_id: str
    n: int
    rate: int
    window: int
    clamped: bool

    @property
    def reason(self) -> str:
        """The reason that is recorded with the raise."""
        cause = f"{self.rate:,} write units a second" if self.rate else "throttled by DynamoDB"
        return f"{cause} in window {self.window}" + (", clamped at the cap" if self.clamped else "")


@dataclass
class BatchResult:
    """Result of one batch. Entries in ``left_pending`` were not acknowledged because of ``failure``."""

    left_pending: list[str] = field(default_factory=list)
    raises: list[RaiseResult] = field(default_factory=list)
    failure: SaltctlError | None = None


@dataclass(eq=False)
class Detector:
    """Handles entries of the heat stream. Not thread-safe: use one for each loop.

    Args:
        dead_letters: receives entries that are not valid reports; None discards them.
        settings: write units per salt, the cap, and the age above which reports are stale.
        counters: totals to update; by default its own.
        max_age: age in seconds above which reports are stale, instead of the setting.
        should_stop: called before every raise; True leaves the remaining entries pending.
    """

    sums: ReportSums
    registry: Registry
    dead_letters: DeadLetters | None
    settings: Settings
    _: KW_ONLY
    counters: Counters = field(default_factory=Counters)
    max_age: float | None = None
    now: Callable[[], float] = time.time
    should_stop: Callable[[], bool] = lambda: False
    _known_n: dict[str, int] = field(default_factory=dict, init=False)
    _clamped: set[str] = field(default_factory=set, init=False)

    def handle(self, entries: Sequence[Entry], stream: HeatStream | None) -> BatchResult:
        """Sum, raise, and acknowledge last.

        An entry whose raise fails is not acknowledged. An entry that is not a valid report, or whose raise is
        refused for good, becomes a dead letter before it is acknowledged. A stream of None acknowledges nothing: the
        entries were acknowledged before.

        Raises:
            UnavailableError, AccessDeniedError: sums, dead letters or acknowledgement failed. Nothing is lost;
                handle the same entries again.
        """
        result = BatchResult()
        reports, dead, ids = self._parse(entries)
        decisions: dict[str, RaiseDecision] = {}
        self._decide([report for _, report in reports], decisions)
        failed, refused = self._raise_all(decisions, result)
        for entry, report in reports:
            if report.conversation_id in refused:
                dead.append((entry, refused[report.conversation_id]))
            (result.left_pending if report.conversation_id in failed else ids).append(entry.id)
        if dead and self.dead_letters is not None:
            self.dead_letters.add(dead)
        self.counters.dead += len(dead)
        for entry, reason in dead:
            log_event(WARNING, "dead_letter", id=entry.id, reason=reason)
        ids += [entry.id for entry, _ in dead]
        if stream is not None and ids:
            stream.acknowledge(ids)
        self.counters.acknowledged += len(ids)
        return result

    def preview(self, entries: Sequence[Entry], decisions: dict[str, RaiseDecision]) -> None:
        """Put the raises that these entries need into ``decisions``. Changes only the sums and the counters."""
        reports, dead, _ = self._parse(entries)
        self.counters.dead += len(dead)
        self._decide([report for _, report in reports], decisions)

    def _parse(
        self, entries: Sequence[Entry]
    ) -> tuple[list[tuple[Entry, HeatReport]], list[tuple[Entry, str]], list[str]]:
        """Return the reports, the invalid entries with the reason, and the ids of entries that need no more work."""
        reports, dead, finished = [], [], []
        now = self.now()
        oldest = now - (self.settings.heat_max_age if self.max_age is None else self.max_age)
        for entry in entries:
            if entry.fields is None:
                finished.append(entry.id)
                self.counters.lost += 1
                why = "the entry was removed from the stream before it was handled"
                log_event(ERROR, "pending_entry_trimmed", id=entry.id, why=why)
                continue
            try:
                report = parse(entry.fields, now)
            except BadReportError as exc:
                dead.append((entry, str(exc)))
                continue
            if report.window < oldest:
                finished.append(entry.id)
                self.counters.stale += 1
            else:
                reports.append((entry, report))
        self.counters.reports += len(entries)
        return reports, dead, finished

    def _decide(self, reports: Sequence[HeatReport], decisions: dict[str, RaiseDecision]) -> None:
        """Sum. Keep, for each conversation that needs salts, the decision with the largest N of its windows."""
        per_salt = self.settings.wps_per_salt
        for report, total in zip(reports, self.sums.add(reports) if reports else (), strict=True):
            if total <= per_salt and not report.throttled_n:
                continue
            by_rate = power_of_two_at_least(math.ceil(total / per_salt))
            # A conversation that was throttled at N needs the next N, even if its write rate is low.
            by_throttling = 2 * power_of_two_at_least(report.throttled_n) if report.throttled_n else 1
            needed = max(by_rate, by_throttling)
            n = needed_n(needed, 1, self.settings.max_n_cap)
            rate = total if by_rate >= by_throttling else 0
            earlier = decisions.get(report.conversation_id)
            if earlier is None or earlier.n < n:
                decision = RaiseDecision(report.conversation_id, n, rate, report.window, clamped=needed > n)
                decisions[report.conversation_id] = decision

    def _raise_all(self, decisions: dict[str, RaiseDecision], result: BatchResult) -> tuple[set[str], dict[str, str]]:
        """Raise. Return the conversations whose raise failed, and those whose raise was refused with the reason."""
        failed: set[str] = set()
        refused: dict[str, str] = {}
        for decision in decisions.values():
            conversation_id = decision.conversation_id
            if decision.clamped:
                self._log_clamped(decision)
            if self._known_n.get(conversation_id, 1) >= decision.n:
                continue
            # After one failure the other raises would wait for the same outage.
            if result.failure is not None or self.should_stop():
                failed.add(conversation_id)
                continue
            try:
                self._raise(decision, result)
            except (DamagedEntryError, RefusedError) as exc:
                refused[conversation_id] = f"raise to {decision.n} refused: {exc.message}"
            except SaltctlError as exc:
                failed.add(conversation_id)
                result.failure = exc
                self.counters.failures += 1
        return failed, refused

    def _raise(self, decision: RaiseDecision, result: BatchResult) -> None:
        raised = self.registry.raise_to(decision.conversation_id, decision.n, reason=decision.reason)
        if len(self._known_n) >= MAX_REMEMBERED:
            self._known_n.clear()
        self._known_n[decision.conversation_id] = raised.after
        result.raises.append(raised)
        if raised.changed:
            self.counters.raised += 1
            fields = {"conversation_id": decision.conversation_id, "before": raised.before, "after": raised.after}
            log_event(INFO, "raised", **fields, reason=decision.reason)
        else:
            self.counters.unchanged += 1

    def _log_clamped(self, decision: RaiseDecision) -> None:
        """Log a conversation that needs more than the cap, once."""
        if decision.conversation_id in self._clamped:
            return
        if len(self._clamped) < MAX_REMEMBERED:
            self._clamped.add(decision.conversation_id)
        self.counters.clamped += 1
        fields = {"conversation_id": decision.conversation_id, "rate": decision.rate, "n": decision.n}
        why = f"it needs more than the cap of {self.settings.max_n_cap} salts and will be throttled"
        hint = "increase the setting max_n_cap (SALTCTL_MAX_N_CAP), or write less to the conversation"
        log_event(ERROR, "clamped", **fields, why=why, hint=hint)
