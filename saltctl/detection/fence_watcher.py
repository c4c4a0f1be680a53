"""Watch the fence and rebuild. The lease lets one of all watching instances rebuild (saltctl/help/protocol.txt)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from dataclasses import KW_ONLY, dataclass, field
from logging import ERROR, INFO, WARNING
from typing import TYPE_CHECKING

from saltctl.detection.events import FENCE_WATCHER, Counters, Parts, log_event
from saltctl.detection.failures import describe, is_waiting_for_a_server
from saltctl.errors import LeaseHeldError, OtherRegistryError, RedisUnavailableError, SaltctlError, UnavailableError
from saltctl.rebuild.events import RebuildProgress, RebuildReport, RebuildStarted
from saltctl.stores.contracts.registry import DamagedEntry

if TYPE_CHECKING:
    from saltctl.rebuild.rebuild import Rebuild
    from saltctl.stores.redis.registry import RedisRegistry

CHECK_INTERVAL = 1.0
BUCKETS_PER_CHECK = 256
"""Buckets that each check asks. Any bucket shows a restart, a failover or a FLUSHALL. A single bucket that was
evicted or deleted shows after at most buckets / 256 seconds; its lookups use the backup at once."""
MAX_WAIT = 30.0
"""Longest wait in seconds between two rebuilds that failed."""
CHECK_SECONDS = 90.0
"""Seconds without a completed check after which the watcher counts as late. Checks during an outage are completed."""
DAMAGED_SECONDS = 300.0
"""Seconds between two rebuilds of a Redis in which damaged items of the backup keep buckets unverified."""
NOTE_CHECKS = 5
"""Each of so many checks compares the primaries with the note of the newest rebuild."""
REBUILD_SECONDS = 900.0
"""Seconds without progress of a rebuild after which the watcher counts as late: longer than a scan that AWS throttles
retries one page, so that a rebuild that takes hours and makes progress never counts."""


@dataclass(eq=False)
class FenceWatcher:
    """Checks that Redis is verified, and rebuilds it if not.

    ``verified`` is the result of the latest check: None before the first one, and while Redis is unavailable.
    ``ended_by`` is the error after which no check of this process can succeed; it sets ``stop``.

    Args:
        buckets: the number of buckets of the registry.
        new_rebuild: returns a new rebuild with a token of its own.
        stop: set to end the watcher; a rebuild in progress then releases its lease.
        noted: returns the replication ids of the primaries that the newest rebuild verifies. A verified primary that is
            not among them is rebuilt, because raises are not merged there. None skips this check.
    """

    store: RedisRegistry
    buckets: int
    new_rebuild: Callable[[], Rebuild]
    _: KW_ONLY
    counters: Counters
    stop: threading.Event
    noted: Callable[[], Collection[str]] | None = None
    clock: Callable[[], float] = time.monotonic
    parts: Parts = field(default_factory=Parts, init=False)
    """Where the watcher records its progress; a service puts its own here."""
    verified: bool | None = field(default=None, init=False)
    ended_by: OtherRegistryError | None = field(default=None, init=False)
    _next_bucket: int = field(default=0, init=False)
    _next_rebuild_at: float = field(default=0.0, init=False)
    _wait: float = field(default=CHECK_INTERVAL, init=False)
    _failing_since: float | None = field(default=None, init=False)
    _last_event: str = field(default="", init=False)
    _checks: int = field(default=0, init=False)
    _partly_verified: set[str] = field(default_factory=set, init=False)
    """The primaries in which the last rebuild left buckets of damaged items unverified."""

    def run(self) -> None:
        """Check every second until ``stop`` is set. After an unforeseen exception wait longer, and check again."""
        self.parts.progress(FENCE_WATCHER, CHECK_SECONDS)
        while not self.stop.is_set():
            self.stop.wait(CHECK_INTERVAL if self.check() else self._wait)

    def check(self) -> bool:
        """Check once, and rebuild if Redis is not verified. Never raises: False after an unforeseen exception."""
        try:
            # A share of the buckets while Redis is verified, all buckets otherwise.
            verified = all(self.store.verified(self._next_share() if self.verified else None).values())
            replaced = verified and not self._is_noted()
            if replaced or not verified:
                self.verified = verified = False
                if self.clock() >= self._next_rebuild_at or self._has_new_primary():
                    verified = self._rebuild(although_verified=replaced)
        except Exception as exc:  # whatever it is, the next check must take place
            return self._handle_failure(exc)
        self.verified = verified
        if verified:
            self._wait = CHECK_INTERVAL
            self._last_event = ""
        if verified or self._partly_verified:
            self._note_progress()
        return True

    def _is_noted(self) -> bool:
        """Return whether the newest rebuild verifies these primaries; checked now and then, and only if AWS answers."""
        self._checks += 1
        if self.noted is None or self._checks % NOTE_CHECKS:
            return True
        with suppress(UnavailableError):
            return self.store.replication_ids() <= set(self.noted())
        return True

    def _has_new_primary(self) -> bool:
        """Return whether Redis restarted or failed over since a rebuild that left buckets unverified."""
        return bool(self._partly_verified) and not self.store.replication_ids() <= self._partly_verified

    def _note_progress(self) -> None:
        self._failing_since = None
        self.parts.progress(FENCE_WATCHER, CHECK_SECONDS)

    def _handle_failure(self, exc: Exception) -> bool:
        """Log the failure of a check or rebuild, and delay the next rebuild; return False if it was unforeseen."""
        waiting = is_waiting_for_a_server(exc)
        if waiting or isinstance(exc, LeaseHeldError):
            self._note_progress()
        else:
            # The progress of a rebuild that failed in the end does not count.
            self._failing_since = self.clock() if self._failing_since is None else self._failing_since
            self.parts.progress(FENCE_WATCHER, self._failing_since + CHECK_SECONDS - self.clock())
        if isinstance(exc, LeaseHeldError):
            self._log_change(INFO, "rebuild_lease_held", why=exc.message)
            return True
        if waiting and isinstance(exc, RedisUnavailableError):
            self.verified = None
            self._log_change(ERROR, "redis_unavailable", error=exc.code, why=exc.message)
            return True
        if self.verified:
            self.verified = None
        self._next_rebuild_at = self.clock() + self._wait
        self._wait = min(self._wait * 2, MAX_WAIT)
        if isinstance(exc, SaltctlError):
            log_event(ERROR, "rebuild_failed", **describe(exc))
            if isinstance(exc, OtherRegistryError):
                self.ended_by = exc
                self.stop.set()
            return True
        self.counters.unexpected += 1
        log_event(ERROR, "fence_watcher_failed", **describe(exc))
        return False

    def _next_share(self) -> range:
        first = self._next_bucket
        last = min(first + BUCKETS_PER_CHECK, self.buckets)
        self._next_bucket = last % self.buckets
        return range(first, last)

    def _rebuild(self, *, although_verified: bool) -> bool:
        """Rebuild under the lease, even ``although_verified``. Return whether Redis is verified."""
        read: tuple[int, float] | None = None
        # Closing the generator releases the lease on every way out.
        with closing(self.new_rebuild().run()) as events:
            for event in events:
                if self.stop.is_set():
                    return False
                if isinstance(event, RebuildProgress) and (event.entries, event.consumed_rcu) != read:
                    # It reports about every second. The start of the scan and each page are progress.
                    read = event.entries, event.consumed_rcu
                    self.parts.progress(FENCE_WATCHER, REBUILD_SECONDS)
                match event:
                    case RebuildStarted(verified_before=True) if not although_verified:
                        # Another instance rebuilt between the check and taking the lease.
                        return True
                    case RebuildStarted():
                        log_event(WARNING, "rebuilding", why="Redis is not verified", primaries=event.primaries)
                    case DamagedEntry():
                        fields = {"conversation_id": event.conversation_id, "why": event.problem}
                        log_event(ERROR, "damaged_backup_entry", **fields)
                    case RebuildReport():
                        self.counters.rebuilds += 1
                        counts = {"entries": event.entries, "restored": event.restored}
                        log_event(INFO, "rebuilt", **counts, seconds=event.seconds)
                        self._partly_verified = set()
                        if event.unverified_buckets:
                            # Another rebuild at once would find the same damaged items.
                            self._partly_verified = self.store.replication_ids()
                            self._next_rebuild_at = self.clock() + DAMAGED_SECONDS
                            return False
        return True

    def _log_change(self, level: int, event: str, **fields: object) -> None:
        """Log an event if it is not the same as the last one, to avoid a line every second."""
        if self._last_event != event:
            self._last_event = event
            log_event(level, event, **fields)
