"""The merge of partitions: final rows, partitions that are behind, and duplicate rows."""

from __future__ import annotations

from typing import Any

from saltctl.history.pages.cursor import BASE, MAX_ID, Position, Tie
from saltctl.history.pages.ordered_merge import OrderedMerge, Row, tie_of
from saltctl.stores.contracts.messages import TableKeys


def row(key: str, salt: int, text: str = "") -> Row:
    """Return a row on a salt."""
    return Row(key, salt, {"p": {"S": f"c#{salt}"}, "s": {"S": key}, "text": {"S": text or f"{key} on {salt}"}})


def tie(text: str) -> Tie:
    """Return the order of a row: its text is its id."""
    return text, "fingerprint"


def merge_of(*salts: int, **options: Any) -> OrderedMerge:
    """Return a merge of these partitions, newest first by default."""
    chosen: dict[str, Any] = {"descending": True, "tie_of": lambda item: tie(item["text"]["S"])} | options
    return OrderedMerge(unfinished=dict.fromkeys(salts), **chosen)


def final_count(merge: OrderedMerge) -> int:
    """Return how many rows, from the first, are final: no partition is behind them."""
    final = [wanted for wanted in range(1, len(merge.rows()) + 1) if not merge.partitions_behind(wanted)]
    return max(final, default=0)


def test_no_row_is_final_before_every_partition_has_answered() -> None:
    """The rows of the missing partition may precede all others."""
    merge = merge_of(0, 1)
    merge.add(0, [row("9", 0), row("8", 0)], "8")
    assert merge.partitions_behind(1) == {1: 0}
    merge.add(1, [], None)
    assert final_count(merge) == 2


def test_rows_are_final_up_to_the_last_key_read_of_every_unfinished_partition() -> None:
    """Rows beyond it may follow unread rows of an unfinished partition. Finished partitions do not matter."""
    merge = merge_of(0, 1, 2)
    merge.add(0, [row("9", 0), row("5", 0)], "5")
    merge.add(1, [row("8", 1), row("7", 1)], "7")
    merge.add(2, [row("6", 2)], None)
    assert [found.sort_key for found in merge.rows()] == ["9", "8", "7", "6", "5"]
    assert final_count(merge) == 3
    assert merge.partitions_behind(3) == {}
    assert merge.partitions_behind(4) == {1: 3}
    merge.add(1, [], None)
    assert final_count(merge) == 5
    assert merge.unfinished == {0: "5"}


def test_the_last_key_read_counts_and_not_the_last_row() -> None:
    """An answer without rows, but with a LastEvaluatedKey, makes more rows final."""
    merge = merge_of(0, 1, descending=False)
    merge.add(0, [row("1", 0), row("4", 0)], "4")
    merge.add(1, [], "3")
    assert final_count(merge) == 1
    merge.add(1, [], "4")
    assert final_count(merge) == 2


def test_equal_rows_are_one_message_and_partitions_do_not_matter() -> None:
    """Messages that share a sort key are in the order of their ids, in both directions."""
    for descending in (True, False):
        merge = merge_of(BASE, 1, 2, descending=descending)
        merge.add(1, [row("5", 1, "b"), row("6", 1)], None)
        merge.add(2, [row("5", 2, "b"), row("5", 3, "a")], None)
        merge.add(BASE, [row("5", BASE, "c"), row("6", BASE, "6 on 1")], None)
        expected = [Position("5", 3, tie("a")), Position("5", 1, tie("b")), Position("5", BASE, tie("c"))]
        expected.append(Position("6", BASE))  # two rows, but no other message
        assert [found.position for found in merge.rows()] == expected[:: -1 if descending else 1]


def test_a_page_begins_behind_a_message_whichever_partition_names_it() -> None:
    """The row at the cursor is read again: its copies are not messages of the next page."""
    for after in (Position("5", 3), Position("5", 1, tie("b"))):
        merge = merge_of(1, 3, descending=False, after=after)
        merge.add(1, [row("5", 1, "b"), row("6", 1)], None)
        merge.add(3, [row("5", 3, "b")], None)
        assert [found.position for found in merge.rows()] == [Position("6", 1)]


def test_a_position_without_tie_has_all_other_messages_of_its_sort_key_beyond_it() -> None:
    """In both directions; a position with a tie has only those of greater ids after it."""
    for tied, after, before in ((None, ["a", "c"], ["a", "c"]), (tie("b"), ["c"], ["a"])):
        for bounds, expected in (("after", after), ("before", before)):
            merge = merge_of(0, 1, 2, descending=False, **{bounds: Position("5", 1, tied)})
            for salt, text in enumerate("abc"):
                merge.add(salt, [row("5", salt, text)], None)
            assert [found.item["text"]["S"] for found in merge.rows()] == expected


def test_a_long_id_is_shortened_and_stays_distinct() -> None:
    """A cursor has the whole id if it is not longer than MAX_ID; of a longer one it has the beginning and a digest."""

    def of(message_id: str) -> str:
        item = {"p": {"S": "c"}, "s": {"S": "5"}, "id": {"S": message_id}}
        return tie_of(item, TableKeys("p", "s", "S"), "id")[0]

    assert of("x" * MAX_ID) == "x" * MAX_ID
    longer = {of("x" * (MAX_ID + more)) for more in range(1, 4)}
    assert len(longer) == 3
    assert {len(short) for short in longer} == {MAX_ID}
    assert all(short.startswith("x" * 90) for short in longer)


def test_a_dropped_partition_does_not_delay_rows() -> None:
    """The rows of the others are then final. The caller reports that the page is incomplete."""
    merge = merge_of(0, 1)
    merge.add(0, [row("9", 0)], None)
    merge.add(1, [], None)
    assert final_count(merge) == 1
    assert merge.unfinished == {}
