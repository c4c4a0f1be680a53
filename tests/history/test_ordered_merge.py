"""The merge of partitions: final rows, partitions that are behind, and duplicate rows."""

from __future__ import annotations

from typing import Any

from saltctl.history.cursor import BASE, Position
from saltctl.history.ordered_merge import OrderedMerge, Row


def row(key: str, salt: int, text: str = "") -> Row:
    """Return a row on a salt."""
    return Row(key, salt, {"p": {"S": f"c#{salt}"}, "s": {"S": key}, "text": {"S": text or f"{key} on {salt}"}})


def merge_of(*salts: int, **options: Any) -> OrderedMerge:
    """Return a merge of these partitions, newest first by default."""
    chosen: dict[str, Any] = {"descending": True, "partition_attribute": "p"} | options
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


def test_equal_rows_have_the_position_of_their_lowest_partition() -> None:
    """A message has one position in both directions. Other rows with its sort key stay."""
    for descending in (True, False):
        merge = merge_of(BASE, 1, 2, descending=descending)
        merge.add(1, [row("5", 1, "same")], None)
        merge.add(2, [row("5", 2, "same"), row("5", 3, "other")], None)
        merge.add(BASE, [row("5", BASE, "third")], None)
        expected = [Position("5", BASE), Position("5", 1), Position("5", 3)]
        assert [found.position for found in merge.rows()] == expected[:: -1 if descending else 1]


def test_a_page_that_begins_at_a_duplicate_row_leaves_out_its_copies() -> None:
    """The row at the cursor is read again: its copy on a higher salt is not a message of the next page."""
    merge = merge_of(1, 3, descending=False, after=Position("5", 1))
    merge.add(1, [row("5", 1, "same"), row("6", 1)], None)
    merge.add(3, [row("5", 3, "same")], None)
    assert [found.position for found in merge.rows()] == [Position("6", 1)]


def test_a_dropped_partition_does_not_delay_rows() -> None:
    """The rows of the others are then final. The caller reports that the page is incomplete."""
    merge = merge_of(0, 1)
    merge.add(0, [row("9", 0)], None)
    merge.add(1, [], None)
    assert final_count(merge) == 1
    assert merge.unfinished == {}
