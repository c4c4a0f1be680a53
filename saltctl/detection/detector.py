"""From heat reports to raises: sum, decide, raise, acknowledge last. Shared by the service and by replay.

Everything here may run twice, late, or beside another instance: a report counts once, max_n never goes down,
and an entry is acknowledged only when nothing that it asks for is left to do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from saltctl.errors import DamagedEntryError, RefusedError, SaltctlError
from saltctl.registry.registry import RaiseResult
from saltctl.salting import needed_n, power_of_two_at_least
from saltctl.settings import Settings
from saltctl.stores.heat.report import BadReportError, HeatReport, parse
from saltctl.stores.heat.stream import Entry

REMEMBERED = 100_000
"""Conversations whose N is remembered, so that not every report of a hot one costs a raise that changes nothing."""

Tell = Callable[..., None]
"""``tell(level, event, **fields)``: what happened, for a log. Fields are plain values; they may be hostile."""


class Sums(Protocol):
    """Where reports are added up: ``WindowSums``, or memory in a dry run."""

    def add(self, reports: Sequence[HeatReport]) -> list[int]:
        """For each report the write units of its conversation in its window so far; each counts once."""
        ...


class Raiser(Protocol):
    """What raises: ``Registry``."""

    def raise_to(self, conversation_id: str, n: int, *, reason: str = "", actor: str | None = None) -> RaiseResult:
        """Increase max_n by the protocol."""
        ...


class Source(Protocol):
    """What entries are acknowledged at: ``HeatStream``."""

    def acknowledge(self, ids: Sequence[str]) -> int:
        """Acknowledge entries."""
        ...


class Burial(Protocol):
    """Where entries go that nothing can be done with: ``DeadLetters``."""

    def add(self, letters: Sequence[tuple[Entry, str]]) -> None:
        """Keep each entry with the reason."""
        ...


@dataclass
class Counters:
    """What one process did since it started. Written by its loop, read by whoever shows it."""

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
    """What a conversation needs by its reports. ``rate`` is in write units a second, 0 where it was throttled."""

    conversation_id: str
    n: int
    rate: int
    window: int
    clamped: bool

    @property
    def reason(self) -> str:
        """For the record of raises."""
        cause = f"{self.rate:,} write units a second" if self.rate else "throttled by DynamoDB"
        return f"{cause} in window {self.window}" + (", clamped at the cap" if self.clamped else "")


@dataclass
class BatchResult:
    """What became of one batch. ``kept`` entries stay pending, for the reason in ``failure``."""

    acknowledged: int = 0
    kept: list[str] = field(default_factory=list)
    stale: int = 0
    dead: int = 0
    raises: list[RaiseResult] = field(default_factory=list)
    failure: SaltctlError | None = None


class Detector:
    """Handles entries of the heat stream. Not thread-safe; one for each loop.

    Args:
        sums: the sums that all instances share.
        raiser: the registry.
        dead_letters: where entries go that are no reports.
        settings: write units a salt, cap, and the age above which heat raises nothing.
        tell: hears about raises, dead letters and clamping.
        max_age: seconds, instead of the settings'.
        now: seconds since the epoch.
        should_stop: asked before every raise; True leaves the rest pending.
    """

    def __init__(
        self,
        sums: Sums,
        raiser: Raiser,
        dead_letters: Burial,
        settings: Settings,
        *,
        tell: Tell = lambda level, event, **fields: None,
        counters: Counters | None = None,
        max_age: float | None = None,
        now: Callable[[], float] = time.time,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._sums = sums
        self._raiser = raiser
        self._dead_letters = dead_letters
        self._per_salt = settings.wps_per_salt
        self._cap = settings.max_n_cap
        self._max_age = settings.heat_max_age if max_age is None else max_age
        self._tell = tell
        self._now = now
        self._give_up = should_stop
        self.counters = counters or Counters()
        self._known: dict[str, int] = {}
        self._clamped: set[str] = set()

    def handle(self, entries: Sequence[Entry], source: Source | None) -> BatchResult:
        """Sum, raise, and acknowledge last, at ``source`` (None: they were acknowledged before).

        An entry whose raise cannot be done now is kept and not acknowledged. One that is no report, or whose
        raise can never be done, becomes a dead letter first.

        Raises:
            UnavailableError, AccessDeniedError: sums, dead letters or acknowledgement failed; nothing is lost,
                and handling the same entries again is right.
        """
        done = BatchResult()
        reports, dead, gone = self._read(entries, done)
        totals = self._sums.add([report for _, report in reports]) if reports else []
        needs = self._needs(((report, total) for (_, report), total in zip(reports, totals, strict=True)))
        failed, refused = self._raise_all(needs, done)
        for entry, report in reports:
            if report.conversation_id in refused:
                dead.append((entry, refused[report.conversation_id]))
        if dead:
            self._bury(dead, done)
        ids = [entry.id for entry in gone]
        for entry, report in reports:
            (done.kept if report.conversation_id in failed else ids).append(entry.id)
        ids += [entry.id for entry, _ in dead]
        self._acknowledge(ids, source, done)
        return done

    def preview(self, entries: Sequence[Entry]) -> tuple[list[RaiseDecision], BatchResult]:
        """What conversations need by these entries, and what else would become of them; changes the sums alone."""
        done = BatchResult()
        reports, dead, _ = self._read(entries, done)
        done.dead = len(dead)
        found = [report for _, report in reports]
        return list(self._needs(zip(found, self._sums.add(found), strict=True)).values()), done

    def _read(
        self, entries: Sequence[Entry], done: BatchResult
    ) -> tuple[list[tuple[Entry, HeatReport]], list[tuple[Entry, str]], list[Entry]]:
        """Reports to be counted, dead letters, and entries that ask for nothing any more."""
        now = self._now()
        reports, dead, gone = [], [], []
        for entry in entries:
            if entry.fields is None:
                gone.append(entry)
                self.counters.lost += 1
                self._tell("error", "trimmed_pending", id=entry.id, why="removed from the stream before it was handled")
                continue
            try:
                report = parse(entry.fields, now)
            except BadReportError as exc:
                dead.append((entry, str(exc)))
                continue
            if report.window < now - self._max_age:
                gone.append(entry)
                done.stale += 1
            else:
                reports.append((entry, report))
        self.counters.reports += len(entries)
        self.counters.stale += done.stale
        return reports, dead, gone

    def _needs(self, counted: Iterable[tuple[HeatReport, int]]) -> dict[str, RaiseDecision]:
        """For each conversation that needs salts the largest N that one of its windows asks for."""
        needs: dict[str, RaiseDecision] = {}
        for report, total in counted:
            if total <= self._per_salt and not report.throttled_n:
                continue
            need = self._need(report, total)
            held = needs.get(report.conversation_id)
            if held is None or held.n < need.n:
                needs[report.conversation_id] = need
        return needs

    def _need(self, report: HeatReport, total: int) -> RaiseDecision:
        by_rate = power_of_two_at_least(math.ceil(total / self._per_salt))
        # What was throttled at N needs the next one, however few writes came through.
        by_throttling = 2 * power_of_two_at_least(report.throttled_n) if report.throttled_n else 1
        n = needed_n(max(by_rate, by_throttling), 1, self._cap)
        clamped = max(by_rate, by_throttling) > n
        return RaiseDecision(
            report.conversation_id, n, total if by_rate >= by_throttling else 0, report.window, clamped
        )

    def _raise_all(self, needs: dict[str, RaiseDecision], done: BatchResult) -> tuple[set[str], dict[str, str]]:
        """Raise what needs it; the conversations that could not be raised now, and those that never can."""
        failed: set[str] = set()
        refused: dict[str, str] = {}
        for need in needs.values():
            if need.clamped:
                self._say_clamped(need)
            if self._known.get(need.conversation_id, 1) >= need.n:
                continue
            # After one failure the others would wait for the same outage.
            if done.failure is not None or self._give_up():
                failed.add(need.conversation_id)
                continue
            try:
                self._raise(need, done)
            except (DamagedEntryError, RefusedError) as exc:
                refused[need.conversation_id] = f"its raise to {need.n} is refused: {exc.message}"
            except SaltctlError as exc:
                failed.add(need.conversation_id)
                done.failure = exc
                self.counters.failures += 1
        return failed, refused

    def _raise(self, need: RaiseDecision, done: BatchResult) -> None:
        result = self._raiser.raise_to(need.conversation_id, need.n, reason=need.reason)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[need.conversation_id] = result.after
        done.raises.append(result)
        if result.changed:
            self.counters.raised += 1
            fields = {"conversation_id": need.conversation_id, "before": result.before, "after": result.after}
            self._tell("info", "raised", **fields, reason=need.reason)
        else:
            self.counters.unchanged += 1

    def _say_clamped(self, need: RaiseDecision) -> None:
        if need.conversation_id in self._clamped:
            return
        if len(self._clamped) < REMEMBERED:
            self._clamped.add(need.conversation_id)
        self.counters.clamped += 1
        self._tell(
            "error",
            "clamped",
            conversation_id=need.conversation_id,
            rate=need.rate,
            n=need.n,
            why=f"it needs more than the cap of {self._cap} salts and will be throttled",
            hint="raise the setting max_n_cap (SALTCTL_MAX_N_CAP), or write less to it",
        )

    def _bury(self, dead: list[tuple[Entry, str]], done: BatchResult) -> None:
        self._dead_letters.add(dead)
        done.dead += len(dead)
        self.counters.dead += len(dead)
        for entry, reason in dead:
            self._tell("warning", "dead_letter", id=entry.id, reason=reason)

    def _acknowledge(self, ids: list[str], source: Source | None, done: BatchResult) -> None:
        if source is not None and ids:
            source.acknowledge(ids)
        done.acknowledged = len(ids)
        self.counters.acknowledged += len(ids)
