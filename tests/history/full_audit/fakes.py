"""Stores in memory for audits of all conversations, whose runs can be killed at any request."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from saltctl.history.full_audit.events import FullAudit, FullAuditOptions
from saltctl.history.full_audit.full_audit import FullAuditor
from saltctl.registry.mending import Damage
from saltctl.salting import partition_key, salt_of
from saltctl.stores.contracts.messages import NOTHING_READ, Item, KeysPage, PartitionQuery
from saltctl.stores.contracts.registry import BackupPage, DamagedEntry, LeaseHolder
from saltctl.testing import MemoryBackup, MemoryMessages, MemoryServers

CAP = 16
TABLE = "messages"


class Killed(BaseException):
    """The process is killed: nothing that it would do after this happens."""


class MemoryItem:
    """The item ``#audit``: its state and its lease."""

    def __init__(self) -> None:
        self.state: str | None = None
        self.holder: LeaseHolder | None = None
        self.saves = 0
        self.dead = False
        self.lease: Any = self

    def load(self) -> str | None:
        """Return the state."""
        return self.state

    def save(self, owner: str, state: str, now: float, progress: str) -> bool:
        """Replace the state, unless the process is dead or has no lease."""
        if self.dead:
            raise Killed
        if self.holder is None or self.holder.owner != owner:
            return False
        self.state = state
        self.saves += 1
        return True

    def acquire(self, owner: str, now: float, *, host: str, pid: int, expiry: float) -> LeaseHolder | None:
        """Take the lease if it is free."""
        if self.holder is not None and self.holder.owner != owner:
            return self.holder
        self.holder = LeaseHolder(owner, host, pid, now, now, "")
        return None

    def release(self, owner: str) -> None:
        """Free the lease, unless the process is dead."""
        if not self.dead and self.holder is not None and self.holder.owner == owner:
            self.holder = None


class Backup(MemoryBackup):
    """Resumes scans, and has damaged items."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged: dict[str, str] = {}

    def scan(
        self, segments: int, *, limit: int | None = None, only: int | None = None, **more: object
    ) -> Generator[BackupPage, None, None]:
        """Yield the items behind a position, in the order of their ids."""
        after: Any = more.get("after") or {}
        start = after.get(0) or ""
        ids = sorted(i for i in {*self.items, *self.damaged} if i > start)
        step = limit or 1000
        for first in range(0, len(ids), step):
            some = ids[first : first + step]
            last = some[-1] if first + step < len(ids) else None
            entries = [(i, self.items[i].entry, self.items[i].write_n) for i in some if i not in self.damaged]
            damaged = [DamagedEntry(i, self.damaged[i]) for i in some if i in self.damaged]
            yield BackupPage(entries, damaged, 1.0, 0, last)


class Messages(MemoryMessages):
    """Resumes scans, in pages of a few rows."""

    page_rows = 10

    def clear(self, partition_key: str) -> None:
        """Delete the messages of a partition."""
        self._partitions[partition_key].clear()
        self._order[partition_key].clear()

    def scan_keys(
        self, segments: int, *, after: Mapping[int, Item | None] = NOTHING_READ, **_: Any
    ) -> Generator[KeysPage, None, None]:
        """Yield the keys of the rows behind a position."""
        names = (self.keys.partition_key, self.keys.sort_key)
        rows = [row for key in sorted(self._partitions) for row in self._partitions[key].values()]
        keys: list[Item] = [{name: row[name] for name in names} for row in rows]
        start = after.get(0)
        keys = keys[keys.index(start) + 1 :] if start is not None else keys
        for first in range(0, max(len(keys), 1), self.page_rows):
            some = keys[first : first + self.page_rows]
            yield KeysPage(some, 1.0, 0, some[-1] if first + self.page_rows < len(keys) else None)


@dataclass
class World:
    """A registry with its messages, and the runs of its audit."""

    on_query: Callable[[PartitionQuery], None] = lambda request: None
    item: MemoryItem = field(default_factory=MemoryItem)
    clock: float = 0.0
    now: float = 1_000_000.0

    def __post_init__(self) -> None:
        self.messages = Messages(before_query=self._query, keys=("conversation_id", "sort_key"))
        self.servers = MemoryServers(messages=self.messages)
        self.backup = Backup()
        self.backup.items = self.servers.backup.items
        self.backup.identity = self.servers.backup.identity

    def _query(self, request: PartitionQuery) -> None:
        self.on_query(request)

    def write(self, conversation_id: str, n: int, count: int = 30, *, first: int = 0) -> None:
        """Write messages under n, whatever the registry says."""
        for number in range(first, first + count):
            message_id = f"{conversation_id}-{number}"
            salt = salt_of(message_id, n)
            self.messages.put(partition_key(conversation_id, salt), f"t{number:04}#{message_id}", {})

    def auditor(self, **options: Any) -> FullAuditor:
        """Return a run that saves after every conversation."""
        return FullAuditor(
            self.servers.history,
            self.backup,
            self.item,  # type: ignore[arg-type]
            self._find_damage,
            FullAuditOptions(**{"cap": CAP, "page": 3} | options),
            TABLE,
            save_every=0.0,
            clock=lambda: self.clock,
            now=lambda: self.now,
        )

    def _find_damage(self, conversation_id: str) -> Damage | None:
        problem = self.backup.damaged.get(conversation_id)
        return None if problem is None else Damage(conversation_id, problem, 4)

    def audit(self, **options: Any) -> FullAudit:
        """Run once, and return the report."""
        *_, report = self.auditor(**options).run()
        assert isinstance(report, FullAudit)
        return report

    def killed_run(self, at: int, **options: Any) -> FullAudit | None:
        """Run until the process is killed, at its query number ``at``; return the report if the run ends before."""
        seen = 0

        def kill(_: PartitionQuery) -> None:
            nonlocal seen
            seen += 1
            if seen >= at:
                self.item.dead = True
                raise Killed

        self.on_query = kill
        try:
            return self.audit(**options)
        except Killed:
            return None
        finally:
            self.on_query = lambda request: None
            self.item.dead, self.item.holder = False, None
