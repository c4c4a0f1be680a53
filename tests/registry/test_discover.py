"""Discovery: the registry from the messages alone."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import count, islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saltctl.errors import DamagedEntryError, UsageError
from saltctl.registry.discover import Discovered, Discovery, ScanCost, ScanProgress, discover, estimate_cost
from saltctl.salting import partition_key, power_of_two_at_least, salt_of
from saltctl.stores.contracts.messages import Item, KeysPage, TableSize
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


def id_of(item: Item) -> str | None:
    """Return the id in the sort key."""
    return str(item["at"]["S"]).partition("#")[2]


def run(store: MemoryMessages, held: dict[str, int] | None = None) -> Discovery:
    """Discover everything."""
    *_, last = discover(store, Held(held or {}), message_id=id_of, segments=2, cap=256)
    assert isinstance(last, Discovery)
    return last


def put(store: MemoryMessages, conversation: str, salt: int | None, messages: int) -> None:
    """Write messages whose ids belong on this salt."""
    n = 1 if salt is None else max(power_of_two_at_least(salt + 1), 2)
    ids = (f"m{number}" for number in count() if salt_of(f"m{number}", n) == salt)
    for message_id in islice(ids, messages):
        store.put(partition_key(conversation, salt), f"t#{message_id}", {})


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
            put(store, conversation, salt, 24)
    found = run(store, held)
    raised = held | {behind.conversation_id: behind.needed_n for behind in found.behind}
    for conversation, salts in written.items():
        salted = [salt for salt in salts if salt is not None]
        covered = raised.get(conversation, 1)
        assert all(salt < covered for salt in salted) or not salted
        if salted:
            assert raised.get(conversation, 1) > 1
    assert all(behind.backup_n is not None and behind.backup_n < behind.needed_n for behind in found.behind)
    assert found.items == 24 * sum(map(len, written.values()))


def test_conversations_that_cannot_be_raised_are_listed() -> None:
    """A salt above the cap, or of an invalid id, needs a manual check."""
    store = MemoryMessages()
    put(store, "a", 999, 3)
    for key in ("b#c#3", "d#03", "e"):
        store.put(key, "t#m", {})
    found = run(store)
    assert found.conversations == [
        Discovered("a", 1024, 1, "above-cap", "it has salts up to 999, and max_n_cap is 256"),
        Discovered("b#c", 4, None, "invalid-id", found.conversations[1].problem),
    ]
    assert "the conversation id 'b#c' holds a '#'" in found.conversations[1].problem
    assert found.behind == []
    assert (found.foreign_rows, found.foreign_key) == (1, "d#03")


@given(
    st.lists(st.tuples(st.sampled_from(["CONV", "USER"]), st.integers(0, 99)), min_size=1, max_size=20, unique=True),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_conversations_of_a_single_table_design_are_never_merged(
    keys: list[tuple[str, int]], messages: int, chance: Random
) -> None:
    """Their messages are on no salts, so not even one message alone on its key passes as one."""
    store = MemoryMessages()
    for base, number in keys:
        for _ in range(messages):
            store.put(f"{base}#{number}", f"t#{chance.getrandbits(64):x}", {})
    found = run(store)
    assert found.behind == []
    assert {conversation.state for conversation in found.conversations} == {"unproven"}
    assert all(conversation.problem for conversation in found.conversations)


def test_one_row_off_its_salt_refuses_the_conversation() -> None:
    """Neither many other rows nor an entry of the registry outweigh it. The override accepts it."""
    store = MemoryMessages()
    put(store, "conv", 3, 100)
    assert run(store).behind == [Discovered("conv", 4, 1, "behind")]
    stray = next(f"x{number}" for number in range(100) if salt_of(f"x{number}", 4) == 1)
    store.put("conv#3", f"t#{stray}", {})
    for held in ({}, {"conv": 2}):
        (refused,) = run(store, held).conversations
        assert refused.state == "unproven"
        assert refused.cause == "misplaced"
        assert refused.problem == "1 of 101 rows are not on the salt of their message id, such as one on salt 3"
    *_, last = discover(store, Held({}), message_id=id_of, segments=1, cap=256, any_salting=True)
    assert isinstance(last, Discovery)
    assert [conversation.conversation_id for conversation in last.behind] == ["conv"]


def test_few_rows_prove_a_conversation_only_if_the_registry_knows_it() -> None:
    """Alone they could be on their salts by chance; one message that is stored many times is still one."""
    store = MemoryMessages()
    put(store, "conv", 3, 4)
    message_id = next(f"m{number}" for number in range(1000) if salt_of(f"m{number}", 4) == 3)
    for number in range(100):
        store.put("conv#3", f"{number}#{message_id}", {})
    problem = "104 rows are too few to show that the key has a salt: it needs about 6 more"
    assert run(store).conversations == [Discovered("conv", 4, 1, "unproven", problem, "too-few")]
    put(store, "conv", 3, 10)  # four of them are there already
    assert [behind.conversation_id for behind in run(store).behind] == ["conv"]
    assert run(store, {"conv": 2}).behind == [Discovered("conv", 4, 2, "behind")]
    assert run(store, {"conv": 4}).conversations == [Discovered("conv", 4, 4, "held")]


def test_a_message_without_an_id_proves_nothing() -> None:
    """It is on no salt. It is counted apart, since it does not show another rule of salts."""
    store = MemoryMessages()
    put(store, "conv", 1, 50)
    *_, last = discover(store, Held({}), message_id=lambda item: None, segments=1, cap=256)
    assert isinstance(last, Discovery)
    problem = "rows without a message id: 50 of 50"
    assert last.conversations == [Discovered("conv", 2, 1, "unproven", problem, "without-id")]
    ids = iter([None])
    *_, last = discover(store, Held({}), message_id=lambda i: next(ids, id_of(i)), segments=1, cap=256)
    assert isinstance(last, Discovery)
    assert last.conversations[0].problem == "rows without a message id: 1 of 50"


def test_a_damaged_item_stops_no_discovery() -> None:
    """It is listed as damaged; the others of its batch are judged."""

    class Damaged(Held):
        """A backup in which one item is damaged."""

        def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
            """The entries there are, or an error."""
            if "bad" in conversation_ids:
                raise DamagedEntryError("its max_n is not a number")
            return super().get_many(conversation_ids)

    store = MemoryMessages()
    for key in ("bad#1", "good#3"):
        store.put(key, "t#m", {})
    scan = discover(store, Damaged({"good": 2}), message_id=id_of, segments=2, cap=256, any_salting=True)
    *_, found = scan
    assert isinstance(found, Discovery)
    problem = "its max_n is not a number"
    assert found.conversations == [Discovered("bad", 2, None, "damaged", problem), Discovered("good", 4, 2, "behind")]


def test_only_salted_conversations_are_read_from_the_backup() -> None:
    """Conversations without salts are not read from the backup."""
    store = MemoryMessages()
    for number in range(50):
        store.put(f"quiet{number}", "t#m", {})
    store.put("hot#1", "t#m", {})
    held = Held({})
    events = list(discover(store, held, message_id=id_of, segments=1, cap=256))
    assert held.asked == 1
    assert events[-2] == ScanProgress(51, 1, 51.0)


def test_the_cost_is_estimated() -> None:
    """One read unit for every 4 KB, half of that for eventually consistent reads."""

    class Sized(MemoryMessages):
        def size(self) -> TableSize:
            return TableSize(1000, 1_000_000)

    assert estimate_cost(Sized(), consistent=True).rcu == 245
    assert estimate_cost(Sized(), consistent=False).rcu == 123


def test_a_size_that_is_not_counted_yet_has_no_cost() -> None:
    """DescribeTable counts a new table hours later: none is not zero."""

    class Uncounted(MemoryMessages):
        def size(self) -> TableSize:
            return TableSize(0, 0)

    assert estimate_cost(Uncounted(), consistent=True) == ScanCost(None, None, None)


@pytest.mark.parametrize("segments", [0, 65])
def test_invalid_segments_are_refused(segments: int) -> None:
    """They are refused before the scan."""

    class Unscanned(MemoryMessages):
        def scan_keys(self, segments: int, **options: object) -> Generator[KeysPage, None, None]:
            raise AssertionError("scanned")

    with pytest.raises(UsageError):
        list(discover(Unscanned(), Held({}), message_id=id_of, segments=segments, cap=256))
