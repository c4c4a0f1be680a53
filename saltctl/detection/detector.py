"""Turn heat reports into raises: sum, decide, raise, acknowledge last. Used by the service and by replay.

Every step may run twice, late, or at the same time as another instance. A report counts once, max_n never goes
down, and an entry is acknowledged only when it needs no more work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from logging import ERROR, INFO, WARNING
from typing import TYPE_CHECKING

from saltctl.detection.decision import RaiseDecision, decide
from saltctl.detection.events import Counters, log_event
from saltctl.detection.failures import (
    MAX_OUTAGES_IN_A_ROW,
    FailedRaises,
    common_failure,
    describe,
    is_waiting_for_a_server,
    reason_of,
)
from saltctl.errors import SaltctlError
from saltctl.registry.failures import is_outage
from saltctl.settings import Settings
from saltctl.stores.heat.contracts import Entry, ReportSums
from saltctl.stores.heat.report import BadReportError, HeatReport, parse

if TYPE_CHECKING:
    from saltctl.registry.registry import RaiseResult, Registry
    from saltctl.stores.heat.dead_letters import DeadLetters
    from saltctl.stores.heat.stream import HeatStream

_Parsed = tuple[Entry, list[HeatReport]]
"""An entry and its reports."""
MAX_REMEMBERED = 100_000
"""Conversations whose N is remembered. Without it every report of a hot conversation would repeat its raise."""


@dataclass
class BatchResult:
    """Result of one batch.

    ``left_pending`` entries were not acknowledged: their raise has to be tried again. ``given_up``: the number of
    entries that became dead letters because their raise cannot be done. ``failure`` stops every raise; None if raises
    were done, or if the failed ones failed for reasons of their own.
    """

    left_pending: list[str] = field(default_factory=list)
    raises: list[RaiseResult] = field(default_factory=list)
    given_up: int = 0
    failure: Exception | None = None


@dataclass(eq=False)
class Detector:
    """Handles entries of the heat stream. Not thread-safe: use one for each loop.

    Args:
        dead_letters: receives entries that are not valid reports; None discards them.
        settings: write units per salt, the cap, and the age above which reports are stale.
        counters: totals to update; by default its own.
        max_age: age in seconds above which reports are stale, instead of the setting.
        should_stop: called before every raise; True leaves the remaining entries pending.
        progress: called after every raise, unless it failed for another reason than an outage.
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
    progress: Callable[[], None] = lambda: None
    _failed: FailedRaises = field(default_factory=FailedRaises, init=False)
    _known_n: dict[str, int] = field(default_factory=dict, init=False)
    _clamped: set[str] = field(default_factory=set, init=False)

    def handle(self, entries: Sequence[Entry], stream: HeatStream | None) -> BatchResult:
        """Sum, raise, and acknowledge last.

        An entry whose raise fails is not acknowledged. An entry that is not a valid report, or whose raise cannot be
        done, becomes a dead letter before it is acknowledged. Neither stops the other entries. A stream of None
        acknowledges nothing: the entries were acknowledged before.

        Raises:
            UnavailableError, AccessDeniedError: the sums or the acknowledgement failed. Nothing is lost; handle the
                same entries again.
        """
        result = BatchResult()
        parsed, dead, ids = self._parse(entries)
        decisions: dict[str, RaiseDecision] = {}
        failures = self._decide([report for _, reports in parsed for report in reports], decisions)
        left = self._raise_all(decisions, failures, result)
        hopeless = {
            conversation_id: reason_of(exc)
            for conversation_id, exc in failures.items()
            if self._failed.is_hopeless(conversation_id, exc)
        }
        unfinished = left | failures.keys()
        for entry, reports in parsed:
            waiting = [r.conversation_id for r in reports if r.conversation_id in unfinished] if unfinished else []
            if not waiting:
                ids.append(entry.id)
            elif all(conversation_id in hopeless for conversation_id in waiting):
                reason = hopeless[waiting[0]]
                dead.append((entry, reason if len(reports) == 1 else f"{waiting[0]!r:.80}: {reason}"))
                result.given_up += 1
            else:
                result.left_pending.append(entry.id)
        ids += self._bury(dead, result)
        if stream is not None and ids:
            stream.acknowledge(ids)
        self.counters.acknowledged += len(ids)
        remaining = [exc for conversation_id, exc in failures.items() if conversation_id not in hopeless]
        result.failure = None if result.raises else common_failure(remaining)
        return result

    def _bury(self, dead: Sequence[tuple[Entry, str]], result: BatchResult) -> list[str]:
        """Add the dead letters. Return the ids of their entries; none if they cannot be added: then they stay."""
        ids = [entry.id for entry, _ in dead]
        try:
            if dead and self.dead_letters is not None:
                self.dead_letters.add(dead)
        except Exception as exc:  # the other entries are done, and must be acknowledged
            self.counters.failures += 1
            log_event(ERROR, "dead_letters_failed", count=len(dead), **describe(exc))
            result.left_pending += ids
            return []
        self.counters.dead += len(dead)
        for entry, reason in dead:
            log_event(WARNING, "dead_letter", id=entry.id, reason=reason)
        return ids

    def preview(self, entries: Sequence[Entry], decisions: dict[str, RaiseDecision]) -> None:
        """Put the raises that these entries need into ``decisions``. Changes only the sums and the counters."""
        parsed, dead, _ = self._parse(entries)
        self.counters.dead += len(dead)
        self._decide([report for _, reports in parsed for report in reports], decisions)

    def _parse(self, entries: Sequence[Entry]) -> tuple[list[_Parsed], list[tuple[Entry, str]], list[str]]:
        """Return the reports, the invalid entries with the reason, and the ids of entries that need no more work."""
        parsed, dead, finished = [], [], []
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
                reports = parse(entry.fields, now)
            except BadReportError as exc:
                dead.append((entry, str(exc)))
                continue
            except Exception as exc:  # a defect of ours must not stop the other entries
                dead.append((entry, f"it cannot be read: {type(exc).__name__}"))
                self._log_failure("report_failed", exc, id=entry.id)
                continue
            if reports[0].window < oldest:
                finished.append(entry.id)
                self.counters.stale += 1
            else:
                parsed.append((entry, reports))
        self.counters.reports += len(entries)
        return parsed, dead, finished

    def _decide(self, reports: Sequence[HeatReport], decisions: dict[str, RaiseDecision]) -> dict[str, Exception]:
        """Sum. Keep, for each conversation that needs salts, the decision with the largest N of its windows.

        Return the conversations that have a report that could not be added, with the error.
        """
        failures: dict[str, Exception] = {}
        for report, total in zip(reports, self._add(reports) if reports else (), strict=True):
            if isinstance(total, Exception):
                failures[report.conversation_id] = total
            elif (decision := decide(report, total, self.settings)) is not None:
                earlier = decisions.get(report.conversation_id)
                if earlier is None or earlier.n < decision.n:
                    decisions[report.conversation_id] = decision
        for conversation_id, exc in failures.items():
            self._count_failure(conversation_id, exc)
        return failures

    def _add(self, reports: Sequence[HeatReport]) -> Sequence[int | Exception]:
        """Return the sum after each report, or its error. After an unforeseen exception add the reports one by one."""
        try:
            return self.sums.add(reports)
        except SaltctlError:
            raise
        except Exception as exc:  # one report must not stop the others
            return [exc] if len(reports) == 1 else [total for report in reports for total in self._add([report])]

    def _raise_all(
        self, decisions: Mapping[str, RaiseDecision], failures: dict[str, Exception], result: BatchResult
    ) -> set[str]:
        """Raise; add each failure to ``failures``. Return the conversations that were not tried."""
        left: set[str] = set()
        outages = 0
        # The conversations that failed before come last, so that the others do not wait for them.
        for decision in sorted(decisions.values(), key=lambda decision: decision.conversation_id in self._failed):
            conversation_id = decision.conversation_id
            if decision.clamped:
                self._log_clamped(decision)
            if self._known_n.get(conversation_id, 1) >= decision.n or conversation_id in failures:
                continue
            # After two outages in a row the other raises would wait for the same one.
            if outages >= MAX_OUTAGES_IN_A_ROW or self.should_stop():
                left.add(conversation_id)
                continue
            try:
                self._raise(decision, result)
            except Exception as exc:  # any failure of one conversation, a defect of ours included
                failures[conversation_id] = exc
                outages = outages + 1 if is_outage(exc) else 0
                self._count_failure(conversation_id, exc)
                if is_waiting_for_a_server(exc):
                    self.progress()
            else:
                outages = 0
                self._failed.succeeded(conversation_id)
                self.progress()
        return left

    def _count_failure(self, conversation_id: str, exc: Exception) -> None:
        """Count a failed try, and log the first one of a conversation."""
        self.counters.failures += 1
        if self._failed.failed(conversation_id, exc):
            self._log_failure("raise_failed", exc, conversation_id=conversation_id)

    def _log_failure(self, event: str, exc: Exception, **fields: object) -> None:
        """Log a failure with the type of its error."""
        if not isinstance(exc, SaltctlError):
            self.counters.unexpected += 1
        log_event(ERROR, event, **fields, **describe(exc))

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
