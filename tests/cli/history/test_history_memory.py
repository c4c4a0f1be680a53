"""``history read --all`` needs the memory of a few pages, however long the history is."""

from __future__ import annotations

import tracemalloc
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from saltctl.cli.history.view import PageWriter
from saltctl.history.history import History
from saltctl.history.models import ReadOptions
from saltctl.salting import split_partition_key
from saltctl.stores.contracts.messages import PartitionAnswer, PartitionQuery
from saltctl.testing import MemoryMessages
from tests.support.lookups import FixedLookups

pytestmark = pytest.mark.slow

N = 4


class Endless(MemoryMessages):
    """A conversation over four salts, whose rows are generated when they are read, so that they take no memory."""

    def __init__(self, messages: int) -> None:
        super().__init__()
        self._messages = messages

    def query(self, request: PartitionQuery) -> PartitionAnswer:
        """Return the rows ``salt``, ``salt`` + 4, … of this salt, oldest first; the base partition has no rows."""
        _, salt = split_partition_key(request.partition_key)
        if salt is None:
            return PartitionAnswer([], 0, 0.5, None)
        assert not request.descending
        low = -1 if request.low is None else int(str(request.low)) - 1
        begin = low if request.start is None else int(request.start["at"]["S"])
        first = begin + 1 + (salt - begin - 1) % N
        numbers = range(first, self._messages, N)[: request.limit]
        rows = [
            {"room": {"S": request.partition_key}, "at": {"S": f"{number:09d}"}, "body": {"S": "x" * 100}}
            for number in numbers
        ]
        more = len(rows) == request.limit
        return PartitionAnswer(rows, len(rows), len(rows) / 20, rows[-1] if more else None)


def peak(messages: int, path: Path) -> int:
    """Return the peak of memory while a history is written as JSONL."""
    with History(FixedLookups({"c": N}), Endless(messages), concurrency=4) as history, path.open("w") as out:
        tracemalloc.start()
        writer = PageWriter("jsonl", str, oldest_first=True, stats=False)
        with redirect_stdout(out):
            writer.write(history.pages("c", ReadOptions(oldest_first=True)))
            complete = writer.finish()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert complete
    return most


def test_memory_does_not_grow_with_the_number_of_messages(tmp_path: Path) -> None:
    """A history four times as long has about the same peak, and each of its messages is written once."""
    out = tmp_path / "out.jsonl"
    few = peak(2_500, out)
    many = peak(10_000, out)
    with out.open() as lines:
        assert sum(1 for _ in lines) == 10_000
    assert many < 1.5 * few
