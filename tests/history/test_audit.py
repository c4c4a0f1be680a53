"""Audits find the messages that readers do not see, and count the ones that are stored twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saltctl.errors import ThrottledError
from saltctl.history.audit import MAX_ORPHANS_LISTED, Audit, Auditor, AuditProgress
from saltctl.history.history import History
from saltctl.salting import partition_key, salt_of
from saltctl.stores.contracts.messages import PartitionQuery
from saltctl.testing import MemoryMessages
from tests.support.lookups import FixedLookups

CAP = 64


def audit(store: MemoryMessages, max_n: int, message_id_from: str = "sort_key") -> Audit:
    """Return the audit of ``conv``, which has ``max_n`` salts in the registry."""
    with History(FixedLookups({"conv": max_n}), store, message_id_from=message_id_from) as history:
        *_, last = Auditor(history, "conv", cap=CAP).run()
    assert isinstance(last, Audit)
    return last


def write(store: MemoryMessages, message_id: str, n: int) -> int | None:
    """Write one message under n and return its salt."""
    salt = salt_of(message_id, n)
    store.put(partition_key("conv", salt), f"t#{message_id}", {"id": {"S": message_id}})
    return salt


@pytest.mark.slow
@given(st.sampled_from([1, 2, 4, 16, 128]), st.lists(st.sampled_from([1, 2, 4, 8, 64]), max_size=40))
@settings(max_examples=100, deadline=None)
def test_exactly_the_messages_that_readers_miss_are_found(max_n: int, written_under: list[int]) -> None:
    """In random histories, the orphans are exactly the messages beyond the max_n of the registry."""
    store = MemoryMessages()
    salts = {f"m{number}": write(store, f"m{number}", n) for number, n in enumerate(written_under)}
    covered = set(range(max_n)) if max_n > 1 else set()
    missed = {message for message, salt in salts.items() if salt is not None and salt not in covered}
    found = audit(store, max_n)
    assert {orphan.message_id for orphan in found.orphans} == missed
    assert found.orphaned == len(missed)
    assert found.complete is (not missed)
    assert sum(partition.messages for partition in found.partitions) == len(salts)
    # A second audit, after a raise to the needed N, misses nothing.
    assert audit(store, found.needed_n).complete
    assert found.needed_n == max_n if not missed else found.needed_n > max_n


def test_a_raise_during_an_audit_is_no_lost_one() -> None:
    """A writer leaps to the new salts after the audit has looked the conversation up."""
    lookups = FixedLookups({"conv": 4})

    def raise_meanwhile(request: PartitionQuery) -> None:
        if lookups.max_n["conv"] == 4:
            lookups.max_n["conv"] = 8
            for number in range(20):
                write(store, f"m{number}", 8)

    store = MemoryMessages(before_query=raise_meanwhile)
    with History(lookups, store) as history:
        *_, found = Auditor(history, "conv", cap=CAP).run()
    assert isinstance(found, Audit)
    assert (found.max_n, found.complete, found.orphans) == (8, True, [])
    assert sum(partition.messages for partition in found.partitions) == 20


def test_a_lost_raise_is_found_beyond_empty_salts() -> None:
    """A message on the last salt below the cap is found, although all salts before it are empty."""
    store = MemoryMessages()
    store.put("conv#63", "t#lonely", {})
    found = audit(store, 4)
    assert [(orphan.partition_key, orphan.message_id) for orphan in found.orphans] == [("conv#63", "lonely")]
    assert (found.needed_n, found.probed) == (64, 60)


@pytest.mark.parametrize("message_id_from", ["sort_key", "attribute:id"])
@pytest.mark.parametrize(("beyond", "needed_n"), [([], 8), ([99], 128)])
def test_messages_outside_the_recent_salts_from_the_boundary_on_are_orphans(
    beyond: list[int], needed_n: int, message_id_from: str
) -> None:
    """Below the boundary they are where they belong. All salts are asked, and the N to raise to covers the orphans."""
    store = MemoryMessages()
    for salt, sort_key in ((5, "t4#below"), (63, "t4#last"), (5, "t5"), (2, "t6#above"), *((s, "t7") for s in beyond)):
        store.put(f"conv#{salt}", sort_key, {"id": {"S": sort_key}})
    store.put("conv", "t9#recent", {"id": {"S": "m"}})
    lookups = FixedLookups({"conv": CAP}, cooled={"conv": (1, "t5")})
    with History(lookups, store, message_id_from=message_id_from) as history:
        *_, found = Auditor(history, "conv", cap=CAP).run()
        assert isinstance(found, Audit)
        assert [orphan.sort_key for orphan in found.orphans] == ["t5", "t6#above", *(["t7"] if beyond else [])]
        assert (found.orphaned, found.needed_n, found.complete) == (2 + len(beyond), needed_n, False)
        assert (found.max_n, found.recent_n, found.probed) == (CAP, 1, CAP)
        # Only rows on salts that the registry does not know may be those of another conversation.
        assert ("1 of 1 rows are not on" in found.unproven) is bool(beyond)
        lookups.max_n["conv"], lookups.cooled["conv"] = max(CAP, needed_n), (needed_n, "t5")  # the repair raises
        *_, found = Auditor(history, "conv", cap=CAP).run()
    assert isinstance(found, Audit)
    assert (found.complete, found.needed_n, found.recent_n) == (True, max(CAP, needed_n), needed_n)


def test_many_orphans_of_known_salts_do_not_prove_those_beyond() -> None:
    """Rows beyond max_n are judged even if the list of orphans is full of others."""
    store = MemoryMessages()
    for number in range(MAX_ORPHANS_LISTED + 1):
        store.put("conv#3", f"t{number:05d}#m", {})
    stray = next(f"x{number}" for number in range(100) if salt_of(f"x{number}", 16) != 9)
    store.put("conv#9", f"z#{stray}", {})
    with History(FixedLookups({"conv": 4}, cooled={"conv": (1, "a")}), store) as history:
        *_, found = Auditor(history, "conv", cap=CAP).run()
    assert isinstance(found, Audit)
    assert (len(found.orphans), found.orphaned) == (MAX_ORPHANS_LISTED, MAX_ORPHANS_LISTED + 2)
    assert found.unproven.startswith("1 of 1 rows are not on the salt")


def test_rows_of_other_conversations_are_not_proved() -> None:
    """Rows beyond max_n that are not on the salt of their id belong to a key such as ``conv#9`` by design."""
    store = MemoryMessages()
    write(store, "m1", 16)
    assert audit(store, 2).unproven == ""
    assert "too few" in audit(store, 1).unproven
    for number in range(40):
        write(store, f"m{number}", 16)
    assert audit(store, 1).unproven == ""
    stray = next(f"x{number}" for number in range(100) if salt_of(f"x{number}", 16) != 9)
    store.put("conv#9", f"t#{stray}", {"id": {"S": stray}})
    assert "1 of " in audit(store, 2).unproven
    assert "1 of " in audit(store, 2, "attribute:id").unproven


def test_above_the_cap_the_next_doubling_is_probed() -> None:
    """An entry that another program raised above the cap is audited too."""
    store = MemoryMessages()
    store.put("conv#200", "t#m", {})
    found = audit(store, 128)
    assert (found.needed_n, found.complete) == (256, False)


def test_duplicates_are_rows_equal_in_all_but_their_partition() -> None:
    """The retry of a write after a raise counts; two messages of the same time do not."""
    store = MemoryMessages()
    for key in ("conv", "conv#1", "conv#3"):
        store.put(key, "t#m", {"text": {"S": "same"}})
    store.put("conv#2", "t#m", {"text": {"S": "other"}})
    found = audit(store, 4)
    assert found.duplicates == 2
    assert [(p.partition_key, p.messages) for p in found.partitions] == [
        ("conv", 1),
        ("conv#0", 0),
        ("conv#1", 1),
        ("conv#2", 1),
        ("conv#3", 1),
    ]


def test_skew_is_the_largest_salt_over_the_average() -> None:
    """The base partition does not count. The skew is None without salts or messages."""
    store = MemoryMessages()
    for number in range(6):
        store.put("conv#0", f"t#{number}", {})
    for salt in (1, 2, 3):
        store.put(f"conv#{salt}", "t#x", {"salt": {"N": str(salt)}})
    store.put("conv", "t#base", {})
    assert audit(store, 4).skew == round(6 / (9 / 4), 3)
    assert audit(MemoryMessages(), 4).skew is None
    assert audit(MemoryMessages(), 1).skew is None


def test_message_ids_of_orphans_come_from_the_attribute() -> None:
    """The audit reads only keys. If ids are an attribute, it reads the row of each orphan for its id."""
    store = MemoryMessages()
    write(store, "m1", 64)
    assert [orphan.message_id for orphan in audit(store, 1, "attribute:id").orphans] == ["m1"]
    assert [orphan.message_id for orphan in audit(store, 1, "attribute:none").orphans] == [None]


def test_many_orphans_are_counted_and_some_are_named() -> None:
    """The size of the result is bounded, its count is not. Progress is reported meanwhile."""
    store = MemoryMessages()
    for number in range(MAX_ORPHANS_LISTED + 500):
        store.put("conv#9", f"{number:05d}#m", {})
    with History(FixedLookups(), store) as history:
        *progress, found = Auditor(history, "conv", cap=CAP).run()
    assert isinstance(found, Audit)
    assert (len(found.orphans), found.orphaned) == (MAX_ORPHANS_LISTED, MAX_ORPHANS_LISTED + 500)
    assert progress == [AuditProgress(1000)]


@pytest.mark.parametrize("partition", ["conv", "conv#2", "conv#40"])
def test_an_unreadable_partition_fails_the_audit(partition: str) -> None:
    """If a partition in the read set or beyond cannot be read, the audit fails without a result."""

    def fail(request: PartitionQuery) -> None:
        if request.partition_key == partition:
            raise ThrottledError("throttled")

    with pytest.raises(ThrottledError) as caught:
        audit(MemoryMessages(before_query=fail), 4)
    assert "nothing is proved" in caught.value.hint
