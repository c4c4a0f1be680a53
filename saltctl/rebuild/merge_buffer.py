"""Step 4 of a rebuild: pages of the backup in, merges into Redis out, and the account of what is in Redis for sure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from saltctl.errors import RebuildBrokenError
from saltctl.stores.contracts import BackupPage, RebuildSession


@dataclass(slots=True)
class Standing:
    """How far a scan is. ``after``: by segment, the id up to which it was read, None where that is its end."""

    entries: int = 0
    skipped: int = 0
    consumed_rcu: float = 0.0
    after: dict[int, str | None] = field(default_factory=dict)

    def copy(self) -> Standing:
        """As it is now."""
        return replace(self, after=dict(self.after))


class Filling:
    """Merges what it is given, some while later. ``read`` is ahead of ``merged``; ``restored`` goes with the latter.

    Small pages are gathered, so that there are few round trips; and a merge is not waited for until the next one is
    due, so that the scan goes on while Redis works.

    Args:
        sessions: by primary.
        by_primary: groups ids by primary, as ``RegistryStore.by_primary``.
        standing: where it begins.
        restored: how many entries were restored until then.
    """

    def __init__(
        self,
        sessions: Mapping[str, RebuildSession],
        by_primary: Callable[[Sequence[str]], Mapping[str, Sequence[str]]],
        standing: Standing,
        restored: int,
    ) -> None:
        self._sessions = sessions
        self._by_primary = by_primary
        self._waiting: list[tuple[str, int, int]] = []
        self._under_way: Standing | None = None
        self.read = standing.copy()
        self.merged = standing.copy()
        self.restored = restored

    @property
    def waiting(self) -> int:
        """Entries that were read and not sent yet."""
        return len(self._waiting)

    def add(self, page: BackupPage) -> None:
        """Take a page; nothing is sent yet."""
        if page.segment < 0:
            return  # a sign of life, and no page
        self.read.entries += len(page.entries)
        self.read.skipped += len(page.damaged)
        self.read.consumed_rcu += page.consumed_rcu
        self.read.after[page.segment] = page.last
        self._waiting += page.entries

    def send(self) -> None:
        """Wait for the merges under way, then begin those of all that waits."""
        self.settle()
        waiting, self._waiting = self._waiting, []
        self._under_way = self.read.copy()
        if len(self._sessions) == 1:
            (session,) = self._sessions.values()
            if waiting:
                session.begin_merge(waiting)
            return
        max_n = {entry[0]: entry[1] for entry in waiting}
        for primary, ids in self._by_primary(list(max_n)).items():
            if primary not in self._sessions:
                raise RebuildBrokenError(
                    f"Redis at {primary} became a primary while the others were being rebuilt",
                    hint="nothing was verified and nothing is lost; run it again: saltctl rebuild",
                )
            self._sessions[primary].begin_merge([(conversation_id, max_n[conversation_id]) for conversation_id in ids])

    def settle(self) -> None:
        """Wait for the merges under way: what they hold is in Redis then, and only then."""
        if self._under_way is None:
            return
        for session in self._sessions.values():
            self.restored += session.end_merge()
        self.merged, self._under_way = self._under_way, None
