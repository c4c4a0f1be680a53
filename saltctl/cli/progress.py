"""The progress of long jobs: a spinner on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from saltctl.cli.output import console, note

LINE_EVERY = 10.0
MAX_DAMAGED_NAMED = 20
"""Damaged items of the backup that a job names; it counts all of them."""
PrintLine = Callable[[str], None]
Event = TypeVar("Event")
Report = TypeVar("Report")


def drain(events: Generator[Event, None, None], report_type: type[Report], handle: Callable[[Event], object]) -> Report:
    """Pass each event of a job to ``handle`` and return the last one, which is the report.

    The generator is closed on every way out, so that an interrupted job frees what it holds, such as its lease.

    Raises:
        RuntimeError: the job ended without a report.
    """
    last: Event | None = None
    with closing(events):
        for event in events:
            handle(event)
            last = event
    if not isinstance(last, report_type):
        raise RuntimeError(f"the job ended without a report ({report_type.__name__})")
    return last


@contextmanager
def show_progress(
    first: str, clock: Callable[[], float] = time.monotonic, *, quiet: bool = False
) -> Iterator[tuple[PrintLine, PrintLine]]:
    """Yield two functions that print to stderr while a long job runs.

    The first shows the current state: with a spinner on a terminal, elsewhere as a plain line every ten
    seconds, and not at all if ``quiet``. The second prints a line that stays.
    """
    if quiet:
        yield lambda text: None, note
    elif sys.stderr.isatty():
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=console(stderr=True), transient=True) as bar:
            task = bar.add_task(first, total=None)
            yield lambda text: bar.update(task, description=text), bar.console.print
    else:
        yield _rate_limited(clock), note


def _rate_limited(clock: Callable[[], float]) -> PrintLine:
    last = clock()

    def print_line(text: str) -> None:
        """Print a line if the last one is old enough."""
        nonlocal last
        if (now := clock()) - last >= LINE_EVERY:
            last = now
            note(text)

    return print_line
