"""Progress of long jobs: one form for all, a line that never wraps, and what a signal prints at once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from saltctl.cli.progress import Step, describe, show_progress

FULL = Step("rebuilding", 120_000, total=300_000, more=("1,200 of them new to Redis", "9,000.5 RCU"))


@pytest.mark.parametrize(
    ("step", "per_second", "line"),
    [
        (Step("rebuilding", 120_000, total=300_000), 45_000.0, "120,000 of about 300,000 entries, 45,000/s, 4 s left"),
        (Step("rebuilding", 120_000), 45_000.0, "120,000 entries, 45,000/s"),
        (Step("rebuilding", 1), None, "1 entry"),
        (Step("rebuilding", 0, total=1), 0.0, "0 of about 1 entry"),
        (Step("rebuilding", 300_000, total=300_000), 7.25, "300,000 of about 300,000 entries, 7.2/s"),
        (Step("rebuilding", 300_001, total=300_000), 7.25, "300,001 entries, 7.2/s"),
        (Step("rebuilding", 1, ("bucket", "buckets"), 9, exact=True), 2.0, "1 of 9 buckets, 2.0/s, 4 s left"),
        (Step("rebuilding", 0, total=5000), 1.0, "0 of about 5,000 entries, 1.0/s, 84 min left"),
        (Step("rebuilding", 0, total=7201), 1.0, "0 of about 7,201 entries, 1.0/s, 2 h 1 min left"),
        (FULL, None, "120,000 of about 300,000 entries, 1,200 of them new to Redis, 9,000.5 RCU"),
    ],
)
def test_a_step_has_one_form(step: Step, per_second: float | None, line: str) -> None:
    """How much of what, how fast, the time left, and then other counts. What is not known is not shown."""
    assert describe(step, per_second) == f"rebuilding: {line}"


def test_what_matters_least_goes_first() -> None:
    """The narrower the terminal, the less is shown; how much is done is shown to the end."""
    lines = [describe(FULL, 45_000.0, room) for room in range(200, 0, -1)]
    assert all(len(line) <= room for line, room in zip(lines, range(200, 0, -1), strict=True) if room >= 24)
    assert all(len(shorter) <= len(longer) for longer, shorter in pairwise(lines))
    assert list(dict.fromkeys(lines))[2:] == [
        "rebuilding: 120,000 of about 300,000 entries, 45,000/s, 4 s left",
        "rebuilding: 120,000 of about 300,000 entries, 4 s left",
        "120,000 of about 300,000 entries, 4 s left",
        "120,000 of about 300,000, 4 s left",
        "120,000 of about 300,000",
    ]


def _clock(step: float) -> Callable[[], float]:
    """A clock that advances by so many seconds with each reading."""
    now = [0.0]

    def read() -> float:
        now[0] += step
        return now[0]

    return read


def test_a_log_gets_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal the state is printed at most every ten seconds; other lines are always printed."""
    with show_progress("begin", _clock(4.0)) as (show, print_line):
        for number in range(7):
            show(f"state {number}")
        print_line("damaged: x")
    assert capsys.readouterr() == ("", "state 2\nstate 5\ndamaged: x\n")


def test_the_rate_is_that_of_the_last_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    """What was done before does not count: a resumed job begins high, and AWS slows a scan down."""
    with show_progress("begin", _clock(10.0)) as (show, _):
        for done in (5_000, 6_000, 7_000, 8_000, 8_010, 8_020, 8_030):
            show(Step("reading", done))
        show(Step("writing", 100))
        show(Step("writing", 200))
    assert capsys.readouterr().err.splitlines() == [
        "reading: 5,000 entries",
        "reading: 6,000 entries, 100/s",
        "reading: 7,000 entries, 100/s",
        "reading: 8,000 entries, 100/s",
        "reading: 8,010 entries, 67/s",
        "reading: 8,020 entries, 34/s",
        "reading: 8,030 entries, 1.0/s",
        "writing: 100 entries",
        "writing: 200 entries, 10/s",
    ]


def test_quiet_progress_prints_no_state(capsys: pytest.CaptureFixture[str]) -> None:
    """``quiet`` suppresses the state, and keeps the lines that stay."""
    with show_progress("begin", _clock(4.0), quiet=True) as (show, print_line):
        for number in range(7):
            show(Step("reading", number))
        print_line("damaged: x")
    assert capsys.readouterr() == ("", "damaged: x\n")


def test_progress_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    """Hostile characters are escaped."""
    with show_progress("begin", _clock(4.0)) as (_, print_line):
        print_line("damaged: \x1b[2J")
    assert capsys.readouterr().err == "damaged: \\x1b[2J\n"
