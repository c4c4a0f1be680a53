"""Writers, readers and lookups that run while a drill breaks servers, and check the promise.

Each participant is a thread with its own registry, as an application server has. All participants share this
process's clock and memory: each knows exactly what was acknowledged before its read or lookup began.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from saltctl.errors import SaltctlError
from saltctl.registry.registry import Lookup, Registry
from saltctl.salting import partition_key, read_set, salt_of
from saltctl.settings import Settings
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.times import iso_utc

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


class Traffic:
    """Runs participants between ``start`` and ``stop``.

    Args:
        settings: the servers.
        conversations: the conversations that are written, read and looked up.
        open_registry: opens the registry of each participant.
    """

    def __init__(self, settings: Settings, conversations: list[str], open_registry: OpenRegistry) -> None:
        self._settings = settings
        self._conversations = conversations
        self._open = open_registry
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stats = TrafficStats()
        self._acknowledged: dict[str, set[str]] = defaultdict(set)
        self._raised: dict[str, int] = defaultdict(lambda: 1)

    def start(self, *, writers: int = 1, readers: int = 2, watchers: int = 1) -> None:
        """Start the participants."""
        roles = [(self._write, writers), (self._read, readers), (self._watch, watchers)]
        for role, count in roles:
            for number in range(count):
                thread = threading.Thread(
                    target=self._run, args=(role, number), name=f"{role.__name__}-{number}", daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def stop(self) -> None:
        """Stop the participants, and wait until they have ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def pop_stats(self) -> TrafficStats:
        """Return the statistics since the last call."""
        with self._lock:
            popped, self._stats = self._stats, TrafficStats()
            return popped

    def wait_for(self, *, reads: int, lookups: int, seconds: float = 30.0) -> None:
        """Wait until the participants did so much since the last ``pop_stats``, at most for ``seconds``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self._lock:
                if self._stats.reads >= reads and self._stats.lookups.total() >= lookups:
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
        registry = self._open(self._settings)
        table = MessagesTable(self._settings)
        missing: list[str] = []
        try:
            for conversation_id in self._conversations:
                try:
                    missing += self._check_read(registry, table, conversation_id)
                except SaltctlError as exc:
                    if not errors_allowed:
                        raise
                    self._count_error(exc)
        finally:
            registry.close()
        return missing

    def _run(self, role: Callable[[Registry, MessagesTable, int, int], None], number: int) -> None:
        registry = self._open(self._settings)
        table = MessagesTable(self._settings)
        turn = number
        try:
            while not self._stop.is_set():
                try:
                    role(registry, table, number, turn)
                except SaltctlError as exc:
                    # The promise allows an error; it does not allow a silent default.
                    self._count_error(exc)
                    self._stop.wait(0.02)
                turn += 1
        finally:
            registry.close()

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

    def _watch(self, registry: Registry, table: MessagesTable, number: int, turn: int) -> None:
        self._lookup(registry, self._conversations[turn % len(self._conversations)])
        self._stop.wait(0.01)

    def _write(self, registry: Registry, table: MessagesTable, number: int, turn: int) -> None:
        conversation_id = self._conversations[turn % len(self._conversations)]
        found = self._lookup(registry, conversation_id)
        message_id = f"w{number}-{turn}"
        key = partition_key(conversation_id, salt_of(message_id, found.write_n))
        at = iso_utc(time.time())
        table.put(key, f"{at}#{message_id}", {"message_id": {"S": message_id}})
        with self._lock:
            self._acknowledged[conversation_id].add(message_id)

    def _read(self, registry: Registry, table: MessagesTable, number: int, turn: int) -> None:
        self._check_read(registry, table, self._conversations[turn % len(self._conversations)])

    def _check_read(self, registry: Registry, table: MessagesTable, conversation_id: str) -> list[str]:
        with self._lock:
            promised = set(self._acknowledged[conversation_id])
        found = self._lookup(registry, conversation_id)
        seen = {
            row["message_id"]["S"]
            for key in read_set(conversation_id, found.max_n)
            for row in table.rows(key)
            if "message_id" in row
        }
        lost = sorted(promised - seen)
        missing = [f"{conversation_id}: {len(lost)} of {len(promised)} messages, such as {lost[0]}"] if lost else []
        with self._lock:
            self._stats.reads += 1
            self._stats.messages_read += len(seen)
            self._stats.missing += missing
        return missing
