"""Events of a rebuild on stderr: plain lines without control characters, and the report as the result."""

from __future__ import annotations

from collections.abc import Generator
from itertools import count

import pytest

from saltctl.cli.jobs import MAX_DAMAGED_NAMED
from saltctl.cli.rebuild.view import show_rebuild
from saltctl.rebuild.events import Event, RebuildProgress, RebuildReport, RebuildStarted, StartDelayed
from saltctl.stores.contracts.registry import DamagedEntry

REPORT = RebuildReport(9, 1, 8, 0, 1.0, 9.0, 2.5, 1, 1, True, False, False, 0)


def _events(*events: Event, closed: list[bool] | None = None) -> Generator[Event, None, None]:
    try:
        yield from events
    finally:
        if closed is not None:
            closed.append(True)


def test_a_line_is_printed_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a line is written when ten seconds have passed, and none before.

    The total is hours old: once it is exceeded, neither it nor the time left is shown.
    """
    now = iter([0.0, 1.0, 11.0, 12.0, 22.0])
    steps = [RebuildProgress(entries, 1, 1.0, 2.5) for entries in (1, 2000, 3000, 4000)]
    assert show_rebuild(_events(*steps, REPORT), lambda: next(now), total=3000) is REPORT
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "rebuilding: 2,000 of about 3,000 entries, 200/s, 6 s left, 1 of them new to Redis, 2.5 RCU",
        "rebuilding: 4,000 entries, 190/s, 1 of them new to Redis, 2.5 RCU",
    ]


def test_waiting_shows_the_loading_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """While Redis loads, the percentage and the time to go are shown; while it is down, the reason."""
    every_ten_seconds = count(0.0, 10.0)
    events = _events(
        StartDelayed("Redis is loading its data", 41.6, 12.0),
        StartDelayed("no answer \x1b[2J"),
        RebuildStarted(1, False),
        REPORT,
    )
    show_rebuild(events, lambda: next(every_ten_seconds))
    assert capsys.readouterr().err.splitlines() == [
        "waiting: Redis is loading its data: 42 %, 12 s to go",
        "waiting: no answer \\x1b[2J",
        "Redis is not verified; marking buckets",
    ]


def test_at_most_twenty_damaged_items_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty damaged items are named; the rest is counted, and the reader is told so."""
    damaged = [DamagedEntry(f"conv_{number}", "it has no max_n") for number in range(50)]
    show_rebuild(_events(*damaged, REPORT))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == MAX_DAMAGED_NAMED + 1
    assert lines[0] == "skipped 'conv_0': it has no max_n"
    assert "no longer named" in lines[-1]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_a_failure_closes_the_rebuild(failure: type[BaseException]) -> None:
    """An interrupted output closes the rebuild, which releases its lease, before the error is raised again."""
    closed: list[bool] = []

    def broken() -> Generator[Event, None, None]:
        try:
            yield RebuildStarted(1, True)
            raise failure
        finally:
            closed.append(True)

    with pytest.raises(failure):
        show_rebuild(broken())
    assert closed == [True]


def test_a_rebuild_without_a_report_is_an_error() -> None:
    """Events that end without a report are never taken for success."""
    with pytest.raises(RuntimeError, match="without a report"):
        show_rebuild(_events(RebuildStarted(1, True)))
