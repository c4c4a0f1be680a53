"""Progress of long jobs on stderr."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from saltctl.cli.progress import show_progress


@pytest.fixture
def clock() -> Callable[[], float]:
    """A clock that advances by four seconds with each reading."""
    now = [0.0]

    def read() -> float:
        now[0] += 4.0
        return now[0]

    return read


def test_a_log_gets_a_line_every_ten_seconds(clock: Callable[[], float], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal the state is printed at most every ten seconds; other lines are always printed."""
    with show_progress("begin", clock) as (update, print_line):
        for number in range(7):
            update(f"state {number}")
        print_line("damaged: x")
    assert capsys.readouterr() == ("", "state 2\nstate 5\ndamaged: x\n")


def test_quiet_progress_prints_no_state(clock: Callable[[], float], capsys: pytest.CaptureFixture[str]) -> None:
    """``quiet`` suppresses the state, and keeps the lines that stay."""
    with show_progress("begin", clock, quiet=True) as (update, print_line):
        for number in range(7):
            update(f"state {number}")
        print_line("damaged: x")
    assert capsys.readouterr() == ("", "damaged: x\n")


def test_progress_is_printable(clock: Callable[[], float], capsys: pytest.CaptureFixture[str]) -> None:
    """Hostile characters are escaped."""
    with show_progress("begin", clock) as (_, print_line):
        print_line("damaged: \x1b[2J")
    assert capsys.readouterr().err == "damaged: \\x1b[2J\n"
