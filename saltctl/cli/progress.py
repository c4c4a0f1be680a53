"""How long jobs go: a spinner on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from saltctl.cli.output import console, note

LINE_EVERY = 10.0
Say = Callable[[str], None]
MAX_DAMAGED_NAMED = 20


@contextmanager
def show_progress(
    first: str, clock: Callable[[], float] = time.monotonic, *, quiet: bool = False
) -> Iterator[tuple[Say, Say]]:
    """Two ways to tell people how a long job goes, on stderr.

    The first shows what is going on now: beside a spinner on a terminal, elsewhere as a plain line every
    ten seconds, and nowhere if ``quiet``. The second says what is to stay.
    """
    if quiet:
        yield lambda text: None, note
    elif sys.stderr.isatty():
        with _bar(first) as say:
            yield say
    else:
        yield _lines(clock), note


@contextmanager
def _bar(first: str) -> Iterator[tuple[Say, Say]]:
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    screen = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Bar(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(first, total=None)
        yield lambda text: bar.update(task, description=text), screen.print


def _lines(clock: Callable[[], float]) -> Say:
    last = clock()

    def say(text: str) -> None:
        nonlocal last
        if (now := clock()) - last >= LINE_EVERY:
            last = now
            note(text)

    return say
