"""The buffer of scanned entries: what counts as merged, on which the checkpoint depends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import pytest

from saltctl.errors import RebuildBrokenError
from saltctl.rebuild.merge_buffer import MergeBuffer, ScanPosition
from saltctl.stores.contracts.registry import BackupPage

if TYPE_CHECKING:
    from saltctl.stores.redis.rebuild_session import RedisRebuildSession


class FakeSession:
    """A session with one primary. ``merged`` are the entries that Redis has confirmed."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.merged: dict[str, int] = {}

    def begin_merge(self, entries: Sequence[tuple[str, int]]) -> None:
        """Send entries."""
        assert not self.sent, "only one merge may be in progress"
        self.sent = [(entry[0], entry[1]) for entry in entries]

    def end_merge(self) -> int:
        """Confirm what was sent."""
        confirmed, self.sent = self.sent, []
        self.merged.update(confirmed)
        return len(confirmed)


def page(segment: int, *ids: str, last: str | None) -> BackupPage:
    """Return a page of entries with 4 salts."""
    return BackupPage([(i, 4, 4) for i in ids], [], 1.0, segment, last)


def buffer_over(read: ScanPosition | None = None, primaries: int = 1) -> tuple[MergeBuffer, list[FakeSession]]:
    """Return a buffer, and a session for each primary; the first letter of an id is the number of its primary."""
    sessions = {str(number): FakeSession() for number in range(primaries)}

    def by_primary(ids: Sequence[str]) -> dict[str, list[str]]:
        return {name: [i for i in ids if i[0] == name] for name in sorted({i[0] for i in ids})}

    typed = cast("dict[str, RedisRebuildSession]", sessions)
    return MergeBuffer(typed, by_primary, read or ScanPosition()), list(sessions.values())


@pytest.mark.parametrize("primaries", [1, 2])
def test_only_confirmed_entries_count_as_merged(primaries: int) -> None:
    """A checkpoint that named an entry that is on its way would lose it with the connection."""
    buffer, sessions = buffer_over(primaries=primaries)
    buffer.add(page(0, "0a", "1b", last="1b"))
    assert buffer.merged == ScanPosition()
    buffer.flush()
    assert (buffer.merged, buffer.restored) == (ScanPosition(), 0)
    buffer.add(page(1, "0c", last=None))
    buffer.wait()
    assert buffer.merged == ScanPosition(2, 0, 1.0, {0: "1b"})
    assert buffer.restored == 2
    buffer.wait()  # nothing is in progress any more
    assert buffer.merged == ScanPosition(2, 0, 1.0, {0: "1b"})
    buffer.flush()
    buffer.add(page(0, "0d", last=None))
    buffer.wait()
    assert buffer.merged == ScanPosition(3, 0, 2.0, {0: "1b", 1: None})
    assert {i for session in sessions for i in session.merged} == {"0a", "1b", "0c"}
    buffer.flush()
    buffer.wait()
    assert buffer.merged == buffer.read == ScanPosition(4, 0, 3.0, {0: None, 1: None})


def test_a_resumed_rebuild_starts_with_what_was_merged() -> None:
    """The position of the checkpoint is merged, also before the first page; idle pages change nothing."""
    start = ScanPosition(10, 1, 5.0, {0: "m"})
    buffer, _ = buffer_over(start)
    assert buffer.merged == start
    buffer.add(BackupPage([], [], 0.0, -1))
    buffer.add(page(0, "0z", last=None))
    assert buffer.merged == ScanPosition(10, 1, 5.0, {0: "m"})
    buffer.flush()
    buffer.wait()
    assert buffer.merged == ScanPosition(11, 1, 6.0, {0: None})


def test_entries_of_a_new_primary_break_the_rebuild() -> None:
    """Its buckets have no marks."""
    buffer, _ = buffer_over(primaries=2)
    buffer.add(page(0, "0a", "7b", last=None))
    with pytest.raises(RebuildBrokenError, match="became a primary"):
        buffer.flush()
