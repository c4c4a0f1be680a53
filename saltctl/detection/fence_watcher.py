"""Watch the fence and rebuild. The lease lets one of all watching instances rebuild (saltctl/help/protocol.txt)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import KW_ONLY, dataclass, field
from logging import ERROR, INFO, WARNING
from typing import TYPE_CHECKING

from saltctl.detection.detector import Counters, log_event
from saltctl.errors import LeaseHeldError, RedisUnavailableError, SaltctlError
from saltctl.rebuild.events import RebuildReport, RebuildStarted
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


@dataclass(eq=False)
class FenceWatcher:
    """Checks that Redis is verified, and rebuilds it if not.

    ``verified`` is the result of the latest check: None before the first one, and while Redis is unavailable.

    Args:
        buckets: the number of buckets of the registry.
        new_rebuild: returns a new rebuild with a token of its own.
        stop: set to end the watcher; a rebuild in progress then releases its lease.
    """

    store: RedisRegistry
    buckets: int
    new_rebuild: Callable[[], Rebuild]
    _: KW_ONLY
    counters: Counters
    stop: threading.Event
    clock: Callable[[], float] = time.monotonic
    verified: bool | None = field(default=None, init=False)
    _next_bucket: int = field(default=0, init=False)
    _next_rebuild_at: float = field(default=0.0, init=False)
    _wait: float = field(default=CHECK_INTERVAL, init=False)
    _last_event: str = field(default="", init=False)

    def run(self) -> None:
        """Check every second until ``stop`` is set."""
        while not self.stop.is_set():
            self.check()
            self.stop.wait(CHECK_INTERVAL)

    def check(self) -> None:
        """Check once, and rebuild if Redis is not verified. Never raises a SaltctlError."""
        try:
            # A share of the buckets while Redis is verified, all buckets otherwise.
            verified = all(self.store.verified(self._next_share() if self.verified else None).values())
            if not verified and self.clock() >= self._next_rebuild_at:
                self.verified = False
                verified = self._rebuild()
        except RedisUnavailableError as exc:
            self.verified = None
            self._log_change(ERROR, "redis_unavailable", error=exc.code, why=exc.message)
        except LeaseHeldError as exc:
            self._log_change(INFO, "rebuild_lease_held", why=exc.message)
        except SaltctlError as exc:
            self._next_rebuild_at = self.clock() + self._wait
            self._wait = min(self._wait * 2, MAX_WAIT)
            log_event(ERROR, "rebuild_failed", error=exc.code, why=exc.message, hint=exc.hint)
        else:
            self.verified = verified
            if verified:
                self._wait = CHECK_INTERVAL
                self._last_event = ""

    def _next_share(self) -> range:
        first = self._next_bucket
        last = min(first + BUCKETS_PER_CHECK, self.buckets)
        self._next_bucket = last % self.buckets
        return range(first, last)

    def _rebuild(self) -> bool:
        """Rebuild under the lease. Return whether Redis is verified."""
        # Closing the generator releases the lease on every way out.
        with closing(self.new_rebuild().run()) as events:
            for event in events:
                if self.stop.is_set():
                    return False
                match event:
                    case RebuildStarted(verified_before=True):
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
        return True

    def _log_change(self, level: int, event: str, **fields: object) -> None:
        """Log an event if it is not the same as the last one, to avoid a line every second."""
        if self._last_event != event:
            self._last_event = event
            log_event(level, event, **fields)
