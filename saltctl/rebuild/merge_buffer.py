"""Buffers scanned entries and merges them into Redis in batches (step 4 of a rebuild)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from saltctl.errors import RebuildBrokenError
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.contracts.registry import BackupPage

if TYPE_CHECKING:
    from saltctl.stores.redis.rebuild_session import RedisRebuildSession


@dataclass(slots=True)
class ScanPosition:
    """Progress of a scan. ``after`` is by segment: the last id that was read, or None at the segment's end."""

    entries: int = 0
    skipped: int = 0
    consumed_rcu: float = 0.0
    after: dict[int, str | None] = field(default_factory=dict)

    def add(self, page: BackupPage) -> None:
        """Count a page. The empty pages that a scan yields while it waits count nothing."""
        if page.segment < 0:
            return
        self.entries += len(page.entries)
        self.skipped += len(page.damaged)
        self.consumed_rcu += page.consumed_rcu
        self.after[page.segment] = page.last

    def copy(self) -> ScanPosition:
        """Return a copy that later pages do not change."""
        return replace(self, after=dict(self.after))


@dataclass(eq=False)
class MergeBuffer:
    """Buffers entries until they are flushed to Redis.

    Batches save round trips. A batch is not awaited until the next one is flushed, so that the scan continues while
    Redis works. ``read`` is the position of the scan, and at first its start. ``merged`` is the position up to which
    Redis has confirmed every merge, and ``restored`` is the number of entries that these merges changed in Redis.
    ``by_primary`` groups ids by primary, as ``RegistryStore.by_primary`` does.
    """

    sessions: Mapping[str, RedisRebuildSession]
    by_primary: Callable[[Sequence[str]], Mapping[str, Sequence[str]]]
    read: ScanPosition = field(default_factory=ScanPosition)
    restored: int = 0
    merged: ScanPosition = field(init=False)
    pending: list[tuple[str, Entry, int]] = field(default_factory=list, init=False)
    """Entries that were read but not flushed."""
    _in_progress: ScanPosition | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Start with everything merged that was read before."""
        self.merged = self.read.copy()

    def add(self, page: BackupPage) -> None:
        """Buffer the entries of a page."""
        self.read.add(page)
        self.pending += page.entries

    def flush(self) -> None:
        """Wait for the merges in progress, then start those of all pending entries."""
        self.wait()
        pending, self.pending = self.pending, []
        self._in_progress = self.read.copy()
        if len(self.sessions) == 1:
            (session,) = self.sessions.values()
            if pending:
                session.begin_merge(pending)
            return
        by_id = {entry[0]: entry[1] for entry in pending}
        for primary, ids in self.by_primary(list(by_id)).items():
            if primary not in self.sessions:
                raise RebuildBrokenError(
                    f"Redis at {primary} became a primary while the others were being rebuilt",
                    hint="nothing was verified and nothing is lost\nsaltctl rebuild",
                )
            self.sessions[primary].begin_merge([(conversation_id, by_id[conversation_id]) for conversation_id in ids])

    def wait(self) -> None:
        """Wait until Redis has confirmed the merges in progress."""
        if self._in_progress is None:
            return
        for session in self.sessions.values():
            self.restored += session.end_merge()
        self.merged, self._in_progress = self._in_progress, None
