"""Writers, readers and lookups that run while a drill breaks servers, and check the promise.

Each participant is a thread with its own registry, as an application server has. All participants share this
process's clock and memory: each knows exactly what was acknowledged before its read or lookup began.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from saltctl.errors import SaltctlError
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import Registry
from saltctl.salting import partition_key, salt_of
from saltctl.settings import Settings
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.times import iso_utc

PHASE_READS, PHASE_LOOKUPS = 6, 40
"""The least that participants do before the next failure: every conversation is read."""
PAUSE = 0.15
"""Seconds between two reads of a reader; the others act five times as often. Without pauses they wait for moto only."""
OpenRegistry = Callable[[Settings], Registry]


@dataclass
class TrafficStats:
    """Counts and violations seen by the participants; guarded by the lock of its Traffic."""

    lookups: Counter[str] = field(default_factory=Counter)
    wrong_lookups: list[str] = field(default_factory=list)
    reads: int = 0
    messages_read: int = 0
    missing: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    slowest_lookup: float = 0.0

    @property
    def enough(self) -> bool:
        """Whether there was enough traffic: a check without it shows nothing."""
        return self.reads >= PHASE_READS and self.lookups.total() >= PHASE_LOOKUPS

    @property
    def violations(self) -> list[str]:
        """A line for each lookup below an acknowledged N, and for each read that missed messages."""
        return self.wrong_lookups + self.missing

    @property
    def figures(self) -> str:
        """The counts in lines, with the first violation of each kind."""
        parts = [
            f"lookups: {self.lookups['redis']:,} from redis, {self.lookups['backup']:,} from the backup, "
            f"{len(self.wrong_lookups)} wrong, slowest {self.slowest_lookup * 1000:.0f} ms",
            f"complete reads: {self.reads:,} with {self.messages_read:,} messages, {len(self.missing)} incomplete",
        ]
        if self.errors:
            parts.append("errors: " + ", ".join(f"{code} {number}" for code, number in sorted(self.errors.items())))
        return "\n".join(parts + self.wrong_lookups[:1] + self.missing[:1])


@dataclass
class Traffic:
    """A writer, two readers and a participant that only looks up.

    Args:
        settings: the servers.
        conversations: the conversations that are written, read and looked up.
        open_registry: opens the registry of each participant.
    """

    settings: Settings
    conversations: list[str]
    open_registry: OpenRegistry

    def __post_init__(self) -> None:
        self._table = MessagesTable(self.settings)
        self._stats = TrafficStats()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._numbers = count()
        self._acknowledged: dict[str, set[str]] = defaultdict(set)
        self._raised: dict[str, int] = defaultdict(lambda: 1)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the participants until the end of the block."""
        roles = (self._write, self._read, self._read, self._lookup)
        threads = [threading.Thread(target=self._run, args=job, daemon=True) for job in enumerate(roles)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(timeout=30)

    def pop_stats(self) -> TrafficStats:
        """Return the statistics since the last call."""
        with self._lock:
            popped, self._stats = self._stats, TrafficStats()
            return popped

    def wait(self) -> None:
        """Wait until there was enough traffic since the last ``pop_stats``, at most for 30 seconds."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with self._lock:
                if self._stats.enough:
                    return
            time.sleep(0.02)

    @property
    def acknowledged(self) -> int:
        """The number of messages acknowledged so far."""
        with self._lock:
            return sum(len(ids) for ids in self._acknowledged.values())

    def raise_to(self, registry: Registry, conversation_id: str, n: int) -> bool:
        """Raise; return whether the raise was acknowledged. Lookups are checked against acknowledged raises."""
        try:
            registry.raise_to(conversation_id, n, reason="drill")
        except SaltctlError as exc:
            self._count_error(exc)
            return False
        with self._lock:
            self._raised[conversation_id] = max(self._raised[conversation_id], n)
        return True

    def read_all(self, *, errors_allowed: bool = False) -> list[str]:
        """Read every conversation once; return a line for each that misses messages.

        Errors are raised, or, if they are allowed, counted as those of the participants.
        """
        missing: list[str] = []
        with self.open_registry(self.settings) as registry:
            for conversation_id in self.conversations:
                try:
                    missing += self._read(registry, conversation_id)
                except SaltctlError as exc:
                    if not errors_allowed:
                        raise
                    self._count_error(exc)
        return missing

    def _run(self, turn: int, role: Callable[[Registry, str], object]) -> None:
        with self.open_registry(self.settings) as registry:
            while not self._stop.is_set():
                try:
                    role(registry, self.conversations[turn % len(self.conversations)])
                except SaltctlError as exc:
                    # The promise allows an error; it does not allow a silent default.
                    self._count_error(exc)
                self._stop.wait(PAUSE if role == self._read else PAUSE / 5)
                turn += 1

    def _count_error(self, exc: SaltctlError) -> None:
        with self._lock:
            self._stats.errors[exc.code] += 1

    def _lookup(self, registry: Registry, conversation_id: str) -> Lookup:
        with self._lock:
            promised = self._raised[conversation_id]
        started = time.monotonic()
        found = registry.lookup(conversation_id)
        seconds = time.monotonic() - started
        with self._lock:
            stats = self._stats
            stats.lookups[found.source] += 1
            stats.slowest_lookup = max(stats.slowest_lookup, seconds)
            if found.max_n < promised:
                stats.wrong_lookups.append(
                    f"{conversation_id}: {found.source} said {found.max_n}, acknowledged was {promised}"
                )
        return found

    def _write(self, registry: Registry, conversation_id: str) -> None:
        found = self._lookup(registry, conversation_id)
        message_id = f"w{next(self._numbers)}"
        key = partition_key(conversation_id, salt_of(message_id, found.write_n))
        self._table.put(key, f"{iso_utc(time.time())}#{message_id}", {"message_id": {"S": message_id}})
        with self._lock:
            self._acknowledged[conversation_id].add(message_id)

    def _read(self, registry: Registry, conversation_id: str) -> list[str]:
        with self._lock:
            promised = set(self._acknowledged[conversation_id])
        found = self._lookup(registry, conversation_id)
        seen = {row["message_id"]["S"] for key in found.read_set() for row in self._table.rows(key)}
        lost = sorted(promised - seen)
        missing = [f"{conversation_id}: {len(lost)} of {len(promised)} messages, such as {lost[0]}"] if lost else []
        with self._lock:
            self._stats.reads += 1
            self._stats.messages_read += len(seen)
            self._stats.missing += missing
        return missing
