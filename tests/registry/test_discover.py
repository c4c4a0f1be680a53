"""Discovery: the registry from the messages alone."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saltctl.errors import UsageError
from saltctl.registry.discover import Discovered, Discovery, ScanProgress, discover, estimate_cost
from saltctl.salting import partition_key
from saltctl.stores.contracts.messages import KeysPage, TableSize
from saltctl.stores.contracts.registry import BackupEntry
from saltctl.testing import MemoryBackup, MemoryMessages


class Held(MemoryBackup):
    """A backup with these entries, which counts the ids that it is asked for."""

    def __init__(self, max_n: dict[str, int]) -> None:
        super().__init__()
        self.items = {i: BackupEntry(i, n, n) for i, n in max_n.items()}
        self.asked = 0

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """The entries there are."""
        self.asked += len(conversation_ids)
        return super().get_many(conversation_ids)


def run(store: MemoryMessages, held: dict[str, int] | None = None) -> Discovery:
    """Discover everything."""
    *_, last = discover(store, Held(held or {}), segments=2, cap=256)
    assert isinstance(last, Discovery)
    return last


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sets(st.none() | st.integers(0, 40), min_size=1)),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([2, 4, 16, 64])),
)
@settings(max_examples=100, deadline=None)
def test_readers_see_every_message_after_the_raises(written: dict[str, set[int | None]], held: dict[str, int]) -> None:
    """After the raises every salt with messages is covered, and no raise was unnecessary."""
    store = MemoryMessages()
    for conversation, salts in written.items():
        for salt in salts:
            store.put(partition_key(conversation, salt), "t#m", {})
    found = run(store, held)
    raised = held | {behind.conversation_id: behind.needed_n for behind in found.behind}
    for conversation, salts in written.items():
        salted = [salt for salt in salts if salt is not None]
        covered = raised.get(conversation, 1)
        assert all(salt < covered for salt in salted) or not salted
        if salted:
            assert raised.get(conversation, 1) > 1
    assert all(behind.backup_n is not None and behind.backup_n < behind.needed_n for behind in found.behind)
    assert found.items == sum(map(len, written.values()))


def test_conversations_that_cannot_be_raised_are_listed() -> None:
    """A salt above the cap, or of an invalid id, needs a manual check."""
    store = MemoryMessages()
    for key in ("a#999999", "b#c#3", "d#03", "e"):
        store.put(key, "t#m", {})
    found = run(store)
    assert found.conversations == [
        Discovered("a", 1 << 20, 1, "above-cap"),
        Discovered("b#c", 4, None, "invalid-id"),
    ]
    assert found.behind == []


def test_only_salted_conversations_are_read_from_the_backup() -> None:
    """Conversations without salts are not read from the backup."""
    store = MemoryMessages()
    for number in range(50):
        store.put(f"quiet{number}", "t#m", {})
    store.put("hot#1", "t#m", {})
    held = Held({})
    events = list(discover(store, held, segments=1, cap=256))
    assert held.asked == 1
    assert events[-2] == ScanProgress(51, 1, 51.0)


def test_the_cost_is_estimated() -> None:
    """One read unit for every 4 KB, half of that for eventually consistent reads."""

    class Sized(MemoryMessages):
        def size(self) -> TableSize:
            return TableSize(1000, 1_000_000)

    assert estimate_cost(Sized(), consistent=True).rcu == 245
    assert estimate_cost(Sized(), consistent=False).rcu == 123


@pytest.mark.parametrize("segments", [0, 65])
def test_invalid_segments_are_refused(segments: int) -> None:
    """They are refused before the scan."""

    class Unscanned(MemoryMessages):
        def scan_keys(self, segments: int, *, consistent: bool = True) -> Generator[KeysPage, None, None]:
            raise AssertionError("scanned")

    with pytest.raises(UsageError):
        list(discover(Unscanned(), Held({}), segments=segments, cap=256))
