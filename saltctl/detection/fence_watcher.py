"""Watches the fence and rebuilds, once for all instances that watch (design: the fence, rebuild)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Protocol

from saltctl.detection.detector import Counters, Tell
from saltctl.errors import LeaseHeldError, RedisUnavailableError, SaltctlError
from saltctl.rebuild.events import Event, RebuildReport, RebuildStarted
from saltctl.stores.contracts import DamagedEntry

CHECK_SECONDS = 1.0
BUCKETS_A_CHECK = 256
"""Buckets that each check asks. A restart, a failover and a FLUSHALL show in any of them; a single bucket that
was evicted or deleted shows within buckets / 256 seconds, and lookups in it ask the backup from the start."""
MAX_WAIT = 30.0


class WatchedStore(Protocol):
    """What is watched: ``RedisRegistry``."""

    def verified(self, buckets: range | None = None) -> Mapping[str, bool]:
        """For each primary whether these buckets, or all, answer lookups."""
        ...


class RebuildJob(Protocol):
    """A rebuild that was not started."""

    def run(self) -> Generator[Event, None, None]:
        """Do it."""
        ...


class FenceWatcher:
    """One watcher. ``verified`` is what the latest check saw: None before the first, or where Redis is away.

    Args:
        store: the registry in Redis.
        buckets: how many it has.
        new_rebuild: a rebuild with a token of its own.
        tell: hears about rebuilds and outages.
        stop: set when the process is to end; a rebuild under way gives its lease back.
    """

    def __init__(
        self,
        store: WatchedStore,
        buckets: int,
        new_rebuild: Callable[[], RebuildJob],
        *,
        tell: Tell,
        counters: Counters,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._buckets = buckets
        self._new_rebuild = new_rebuild
        self._tell = tell
        self._counters = counters
        self._stop = stop
        self._clock = clock
        self._next_bucket = 0
        self._not_before = 0.0
        self._wait = CHECK_SECONDS
        self._said = ""
        self.verified: bool | None = None

    def run(self) -> None:
        """Check every second until stopped."""
        while not self._stop.is_set():
            self.check()
            self._stop.wait(CHECK_SECONDS)

    def check(self) -> None:
        """Look once, and rebuild where Redis is not verified. Never raises a SaltctlError."""
        try:
            # All buckets after anything but a good answer, a share of them while all is well.
            verified = all(self._store.verified(self._share() if self.verified else None).values())
            if not verified and self._clock() >= self._not_before:
                self.verified = False
                verified = self._rebuild()
        except RedisUnavailableError as exc:
            self.verified = None
            self._once("error", "redis_away", error=exc.code, why=exc.message)
            return
        except LeaseHeldError as exc:
            self._once("info", "rebuilt_elsewhere", why=exc.message)
            return
        except SaltctlError as exc:
            self._not_before = self._clock() + self._wait
            self._wait = min(self._wait * 2, MAX_WAIT)
            self._tell("error", "rebuild_failed", error=exc.code, why=exc.message, hint=exc.hint)
            return
        self.verified = verified
        if verified:
            self._wait = CHECK_SECONDS
            self._said = ""

    def _share(self) -> range:
        first = self._next_bucket
        last = min(first + BUCKETS_A_CHECK, self._buckets)
        self._next_bucket = last % self._buckets
        return range(first, last)

    def _rebuild(self) -> bool:
        """Rebuild under the lease; whether Redis is verified now."""
        # Closed on every way out, so that the lease is given back.
        with closing(self._new_rebuild().run()) as events:
            for event in events:
                if self._stop.is_set():
                    return False
                match event:
                    case RebuildStarted(verified_before=True):
                        # Another instance was done between our look and our turn with the lease.
                        return True
                    case RebuildStarted():
                        self._tell("warning", "rebuilding", why="Redis is not verified", primaries=event.primaries)
                    case DamagedEntry():
                        self._tell("error", "damaged", conversation_id=event.conversation_id, why=event.problem)
                    case RebuildReport():
                        self._counters.rebuilds += 1
                        self._tell(
                            "info", "rebuilt", entries=event.entries, restored=event.restored, seconds=event.seconds
                        )
        return True

    def _once(self, level: str, event: str, **fields: object) -> None:
        """Say it when it begins, and not every second."""
        if self._said != event:
            self._said = event
            self._tell(level, event, **fields)
