"""The verdict on the heat stream from two readings and the changes between them, never from a threshold alone."""

from __future__ import annotations

import pytest

from saltctl.detection.stream_status import entry_time, judge
from saltctl.stores.heat.contracts import ConsumerInfo, GroupInfo

ALIVE = (ConsumerInfo("a", 0, 0.5),)
DEAD = (ConsumerInfo("a", 0, 600.0),)


def group(
    lag: int | None,
    pending: int = 0,
    delivered: str = "5-0",
    oldest: str | None = None,
    consumers: tuple[ConsumerInfo, ...] = ALIVE,
) -> GroupInfo:
    """A group at one moment."""
    return GroupInfo("saltctl", lag, pending, oldest, delivered, consumers, None)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (None, None, "unknown"),
        (group(0), group(0), "ok"),
        (group(0, consumers=()), group(0, consumers=()), "stopped"),
        (group(9, consumers=DEAD), group(9, consumers=DEAD), "stopped"),
        (group(None), group(None), "unknown"),
        (group(5), group(5), "stalled"),
        (group(0, 5, oldest="1-0"), group(0, 5, oldest="1-0"), "stalled"),
        (group(0), group(7), "ok"),
        (group(100_000), group(90_000, delivered="9-0"), "ok"),
        (group(100_000), group(99_990, delivered="9-0"), "lagging"),
        (group(10), group(10, delivered="9-0"), "lagging"),
        (group(10), group(500, delivered="9-0"), "lagging"),
        (group(10), group(0, 3, delivered="9-0", oldest="8-0"), "ok"),
        (group(0, 9, oldest="1-0"), group(0, 2, oldest="4-0"), "ok"),
    ],
)
def test_verdicts(before: GroupInfo | None, after: GroupInfo | None, verdict: str) -> None:
    """A large backlog that shrinks is ok; a small one that no instance handles is not."""
    assert judge(before, after, 1.0) == verdict


@pytest.mark.parametrize(
    ("entry_id", "at"),
    [("1700000000000-3", "2023-11-14T22:13:20.000Z"), (None, None), (f"{2**64 - 1}-0", None)],
)
def test_the_time_of_an_entry(entry_id: str | None, at: str | None) -> None:
    """An id contains the time of its entry; an invented id may not."""
    assert entry_time(entry_id) == at
