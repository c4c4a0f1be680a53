"""The checkpoint of a recovery's scan: a chain of parts, of which each counts only after its predecessors."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from saltctl.rebuild.checkpoint import ResumeMode
from saltctl.registry.discover import Salts
from saltctl.registry.recovery.scan_checkpoint import MAX_ROW_BYTES, ScanCheckpoint, ScanScope
from saltctl.stores.contracts.messages import Item, KeysPage

SCOPE = ScanScope("us-east-1 t1", "us-east-1 m1", "v2:64", "salt", "sort_key", 2)


@dataclass
class Parts:
    """Keeps parts in memory."""

    parts: dict[int, bytes] = field(default_factory=dict)

    def load(self, number: int) -> bytes | None:
        """Return a part."""
        return self.parts.get(number)

    def save(self, number: int, part: bytes) -> None:
        """Keep a part."""
        self.parts[number] = part

    def delete(self) -> None:
        """Delete every part."""
        self.parts.clear()


def checkpoint(parts: Parts, token: str = "a" * 32) -> ScanCheckpoint:
    """Return the checkpoint of a recovery that starts over, or resumes, without a Redis to mark."""
    made = ScanCheckpoint(cast("Any", parts), SCOPE, token, lambda primary: {}, every=0.0)
    assert not list(made.resume_or_mark(ResumeMode.IF_VALID, {}))
    return made


def scanned(*keys: str, segment: int = 0) -> KeysPage:
    """Return a page with a row for each partition key."""
    items: list[Item] = [{"id": {"S": key}, "at": {"S": f"t#{number}"}} for number, key in enumerate(keys)]
    return KeysPage(items, 1.0, segment, items[-1])


def salts() -> Salts:
    """Return an empty result of a scan."""
    return Salts("id", lambda row: str(row["at"]["S"]).partition("#")[2], unsaved=defaultdict(list))


def resumed(parts: Parts) -> Salts:
    """Return what a recovery that resumes starts with."""
    found = salts()
    list(checkpoint(parts).restore(found))
    return found


def save(made: ScanCheckpoint, found: Salts, *pages: KeysPage) -> None:
    """Save after each page."""
    for page in pages:
        found.add(page)
        made.save(found)


def test_what_was_found_is_restored_with_the_position() -> None:
    """Salts and evidence of all parts, as they were; only the count of rows that prove nothing new is lost."""
    parts, found = Parts(), salts()
    made = checkpoint(parts)
    list(made.restore(found))
    save(made, found, scanned("a#3", "b#0", "b#1", "plain"), scanned("a#1", "a#9", segment=1))
    again = resumed(parts)
    assert again.highest == found.highest == {"a": 9, "b": 1}
    assert {i: replace(e, rows=0) for i, e in again.evidence.items()} == {
        i: replace(e, rows=0) for i, e in found.evidence.items()
    }
    assert (again.items, again.consumed_rcu, again.after) == (found.items, found.consumed_rcu, found.after)


def test_parts_of_another_run_end_the_chain() -> None:
    """Such as one that lost the lease and writes on: messages are read again, and nothing is lost."""
    parts, found, late = Parts(), salts(), salts()
    first, stale = checkpoint(parts), checkpoint(Parts())
    for made, into in ((first, found), (stale, late)):
        list(made.restore(into))
    save(first, found, scanned("a#1"), scanned("a#3"), scanned("a#7"))
    save(stale, late, scanned("z#1"), scanned("z#3"))
    first_two = dict(parts.parts)
    stale_parts = cast("Parts", stale.items).parts
    parts.parts[1] = stale_parts[1]
    again = resumed(parts)
    assert (again.highest, again.items) == ({"a": 1}, 1)
    parts.parts = first_two | {1: b"damaged"}
    assert resumed(parts).items == 1


def test_a_part_of_an_older_recovery_is_not_continued() -> None:
    """It starts over with another token: parts that the older one wrote later do not follow its own."""
    parts, found, newer = Parts(), salts(), salts()
    old = checkpoint(parts)
    list(old.restore(found))
    save(old, found, scanned("a#1"), scanned("a#3"))
    kept = dict(parts.parts)
    parts.delete()
    new = checkpoint(parts, "b" * 32)
    list(new.restore(newer))
    save(new, newer, scanned("b#1"))
    parts.parts[1] = kept[1]
    again = resumed(parts)
    assert (again.highest, again.items) == ({"b": 1}, 1)


def test_a_large_page_is_split_and_its_position_comes_last() -> None:
    """An item has at most 400 KB. Without the last part the page is read again."""
    parts, found = Parts(), salts()
    made = checkpoint(parts)
    list(made.restore(found))
    page = scanned(*(f"{number:0>1000}#1" for number in range(600)))
    save(made, found, page)
    assert len(parts.parts) == 600 * 1018 // MAX_ROW_BYTES + 1
    assert all(len(part) < 400_000 for part in parts.parts.values())
    assert len(resumed(parts).highest) == 600
    assert resumed(parts).after == {0: page.last}
    del parts.parts[max(parts.parts)]
    assert not resumed(parts).after


class Interrupted(Parts):
    """The write of one part is interrupted, just before it or just after it."""

    def __init__(self, at: int, *, written: bool) -> None:
        super().__init__()
        self.at = at
        self.written = written

    def save(self, number: int, part: bytes) -> None:
        """Keep the part, unless it is the one, which is interrupted once."""
        if number != self.at or self.written:
            super().save(number, part)
        if number == self.at:
            self.at = -1
            raise KeyboardInterrupt


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("at", range(5))
def test_a_save_that_was_interrupted_is_repeated(at: int, written: bool) -> None:
    """The end of an interrupted recovery saves again: each row is in the chain, or behind its position."""
    parts, found = Interrupted(at, written=written), salts()
    made = checkpoint(parts)
    list(made.restore(found))
    found.add(scanned(*(f"{number:0>1000}#1" for number in range(600))))
    with pytest.raises(KeyboardInterrupt):
        made.save(found)
    made.save(found)
    again = resumed(parts)
    assert again.after == found.after
    assert again.highest == found.highest


def test_a_page_that_was_interrupted_is_read_again() -> None:
    """Its position is not that of the scan before each of its rows was counted."""
    found, read = salts(), 0

    def interrupt(row: Item) -> str:
        nonlocal read
        read += 1
        if read == 4:
            raise KeyboardInterrupt
        return str(row["at"]["S"])

    found.message_id = interrupt
    first = scanned("a#1", "b#1")
    found.add(first)
    with pytest.raises(KeyboardInterrupt):
        found.add(scanned("c#1", "d#1"))
    assert (found.items, found.after) == (2, {0: first.last})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backup_table", "us-east-1 t2"),
        ("backup_table", "eu-central-1 t1"),
        ("messages_table", "us-east-1 m2"),
        ("layout", "v2:128"),
        ("key_prefix", "other"),
        ("message_id_from", "attribute:id"),
        ("segments", 4),
    ],
)
def test_every_difference_starts_over(name: str, value: Any) -> None:
    """Another table or Region, other keys, another number of segments."""
    parts, found = Parts(), salts()
    made = checkpoint(parts)
    list(made.restore(found))
    save(made, found, scanned("a#1"))
    other = replace(SCOPE, **{name: value})
    later = ScanCheckpoint(cast("Any", parts), other, "b" * 32, lambda primary: {}, every=0.0)
    (rejected,) = later.resume_or_mark(ResumeMode.IF_VALID, {})
    assert "not valid any more" in str(rejected)
    assert not parts.parts
