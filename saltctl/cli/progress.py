"""The progress of long jobs: a spinner on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from saltctl.cli.output import console, note

LINE_EVERY = 10.0
MAX_DAMAGED_NAMED = 20
"""Damaged items of the backup that a job names; it counts all of them."""
PrintLine = Callable[[str], None]


@contextmanager
def show_progress(
    first: str, clock: Callable[[], float] = time.monotonic, *, quiet: bool = False
) -> Iterator[tuple[PrintLine, PrintLine]]:
    """Yield two functions that print to stderr while a long job runs.

    The first shows the current state: beside a spinner on a terminal, elsewhere as a plain line every ten
    seconds, and not at all if ``quiet``. The second prints a line that stays.
    """
    if quiet:
        yield lambda text: None, note
    elif sys.stderr.isatty():
        with _spinner(first) as functions:
            yield functions
    else:
        yield _rate_limited(clock), note


@contextmanager
def _spinner(first: str) -> Iterator[tuple[PrintLine, PrintLine]]:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    screen = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(first, total=None)
        yield lambda text: bar.update(task, description=text), screen.print


def _rate_limited(clock: Callable[[], float]) -> PrintLine:
    last = clock()

    def print_line(text: str) -> None:
        nonlocal last
        if (now := clock()) - last >= LINE_EVERY:
            last = now
            note(text)

    return print_line
