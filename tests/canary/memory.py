"""Canaries over stores in memory, which can be killed before any change."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from saltctl.canary.canary import Canary
from saltctl.canary.classes import Classes
from saltctl.canary.conversations import BOUND, RESERVED
from saltctl.canary.ground_truth import GroundTruth, read_ground_truth
from saltctl.canary.report import CanaryReport
from saltctl.canary.round import Servers
from saltctl.errors import BackupLostError, UnverifiedError
from saltctl.settings import Settings
from saltctl.stores.contracts.registry import BackupEntry, Cooling, Raise
from saltctl.testing import MemoryBackup, MemoryMessages, MemoryRedis
from saltctl.times import iso_utc

CHANGES = ("put", "delete", "merge", "raise_max_n", "commit_write_n", "replace")


class Killed(BaseException):
    """The process of a canary was killed."""


class Serial:
    """A store whose calls run one after another, each after ``before`` was called with its name."""

    def __init__(self, inner: Any, lock: Any, before: Callable[[str], None]) -> None:
        self._inner, self._lock, self._before = inner, lock, before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._before(name)
            with self._lock:
                return found(*arguments, **options)

        return call


class NeverVerified(MemoryRedis):
    """Redis as a client of another registry sees it."""

    def lookup(self, primary: str, conversation_ids: Any) -> Any:
        """Refuse."""
        raise UnverifiedError("fenced by another registry")


def refuse_empty_table() -> None:
    """Refuse a table without an identity, as a client does."""
    raise BackupLostError("no identity")


@dataclass
class World:
    """Stores in memory, a clock, and canaries over them."""

    settings: Settings = field(
        default_factory=lambda: Settings(breaker_seconds=0.0, cool_wait=60.0, cool_margin=300.0, actor="test")
    )
    messages: MemoryMessages = field(default_factory=MemoryMessages)
    redis: MemoryRedis = field(default_factory=MemoryRedis)
    backup: MemoryBackup = field(default_factory=MemoryBackup)
    at: datetime = datetime(2026, 7, 1, tzinfo=UTC)
    skew: timedelta = timedelta(0)
    before: Callable[[str], None] = lambda name: None

    def __post_init__(self) -> None:
        self.lock = threading.RLock()

    def _before(self, name: str) -> None:
        self.before(name)

    def canary(
        self,
        *,
        classes: Classes | None = None,
        before: Callable[[str], None] | None = None,
        seed: int = 1,
        skew: timedelta = timedelta(0),
        allow_cooling: bool = True,
    ) -> Canary:
        """Return a canary whose host has a clock of its own."""

        def serial(store: Any) -> Any:
            return Serial(store, self.lock, before or self._before)

        backup, messages = serial(self.backup), serial(self.messages)
        servers = Servers(
            self.settings,
            classes or Classes(),
            serial(self.redis),
            backup,
            messages,
            messages,
            backup,
            self.backup.check_registry,
            cooled=lambda: False,
            foreign=NeverVerified,
            check_lost=refuse_empty_table,
        )
        return Canary(servers, allow_cooling=allow_cooling, rng=random.Random(seed), now=lambda: self.at + skew)

    def age(self) -> None:
        """Leave the reserved conversations as long use does: raised to BOUND, and cooled again."""
        boundary = f"{iso_utc(self.at - timedelta(seconds=1))}#m1"
        cooling = Cooling(2, 1, 1, era=2, recent_n=1, boundary=boundary, narrowed_at=iso_utc(self.at))
        for conversation in RESERVED:
            entry = BackupEntry(conversation, BOUND, 1, (Raise(1, "", "", "", cooled=True),), cooling)
            self.backup.items[conversation] = entry
            self.redis.merge(conversation, entry.entry)

    def rounds(self, canary: Canary, number: int, step: float = 61.0) -> list[CanaryReport]:
        """Run rounds, with time between them; return the reports."""
        reports = []
        for _ in range(number):
            reports.append(canary.run())
            self.at += timedelta(seconds=step)
        return reports

    def rows(self, conversation: str) -> GroundTruth:
        """Return what the table holds of a conversation."""
        return read_ground_truth(self.messages, conversation, BOUND)


def failed(reports: list[CanaryReport]) -> list[str]:
    """Return the names and details of all failed checks."""
    return [f"{check.name}: {check.detail}" for report in reports for check in report.checks if check.ok is False]


def judged(reports: list[CanaryReport]) -> set[str]:
    """Return the names of the checks that were judged in some round."""
    return {check.name for report in reports for check in report.checks if check.ok is not None}
