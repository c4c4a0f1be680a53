"""Progress of long jobs on stderr, in one form for all: what is done, of how much, how fast, and the time left.

On a terminal it is one line that changes, and that never wraps; elsewhere a plain line every ten seconds.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from saltctl.cli.formats.text import counted, printable
from saltctl.cli.output import console, note, warn
from saltctl.cli.signals import announce_stop, writes_json_lines

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY = 10.0
"""Seconds between two plain lines."""
_WINDOW = 30.0
"""The rate is that of the last so many seconds: a scan that AWS slowed down is not judged by how it began."""
_SHORTEST = 0.5
"""Seconds before which a rate says nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a job does at the moment, and how much of it is done.

    Args:
        doing: such as ``rebuilding``. Another step begins if it changes.
        done: how many are done.
        nouns: of what, in the singular and the plural.
        total: how many there are; None if that is unknown.
        exact: the total is a count, and not an estimate such as the ItemCount of DescribeTable.
        more: other counts, the most important one first; those for which there is no room are left out.
    """

    doing: str
    done: int
    nouns: tuple[str, str] = ("entry", "entries")
    total: int | None = None
    exact: bool = False
    more: tuple[str, ...] = ()


State = Step | str
"""What a job shows: a step, or a sentence."""
Show = Callable[[State], None]
PrintLine = Callable[[str], None]


def describe(step: Step, per_second: float | None = None, room: int | None = None) -> str:
    """Describe a step in at most ``room`` characters, by leaving out what matters least.

    A total that was exceeded was out of date: then neither it nor the time left is known.
    """
    forms = _forms(step, per_second)
    return next((form for form in forms if room is None or len(form) <= room), forms[-1])


def _forms(step: Step, per_second: float | None) -> list[str]:
    """Return the line, from its longest form to its shortest one."""
    short, amount, left = f"{step.done:,}", counted(step.done, *step.nouns), ""
    if step.total is not None and step.done <= step.total:
        of = f"{short} of {'' if step.exact else 'about '}"
        short, amount = f"{of}{step.total:,}", f"{of}{counted(step.total, *step.nouns)}"
        if per_second and step.done < step.total:
            left = f"{_duration((step.total - step.done) / per_second)} left"
    rate = "" if not per_second else f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"
    named, pace = f"{step.doing}: {amount}", left or rate
    more = [step.more[:count] for count in range(len(step.more), -1, -1)]
    forms = [(named, rate, left, *some) for some in more]
    forms += [(named, pace), (amount, pace), (short, pace), (short,)]
    return [", ".join(filter(None, form)) for form in forms]


def _duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60} min"


@dataclass
class _Pace:
    """Measures how fast a step goes. What was done before its first state, such as by a run that it resumes, is not."""

    clock: Callable[[], float]
    now: float = 0.0
    _doing: str = ""
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def measure(self, state: State) -> float | None:
        """Return how many are done a second; None if that is not known yet."""
        self.now = self.clock()
        if isinstance(state, str):
            return None
        if state.doing != self._doing:
            self._doing = state.doing
            self._seen.clear()
        while len(self._seen) > 1 and self._seen[1][0] <= self.now - _WINDOW:
            self._seen.popleft()
        if not self._seen or self.now - self._seen[-1][0] >= _SHORTEST:
            self._seen.append((self.now, state.done))
        at, done = self._seen[0]
        return (state.done - done) / (self.now - at) if self.now - at >= _SHORTEST else None


@contextmanager
def show_progress(
    first: str, clock: Callable[[], float] = time.monotonic, *, quiet: bool = False
) -> Iterator[tuple[Show, PrintLine]]:
    """Yield two functions that print to stderr while a long job runs. A signal is answered at once.

    The first shows the current state, but not if ``quiet``. The second prints a line that stays. ``quiet`` is for
    ``--cron``, whose stderr is lines of JSON.
    """
    if quiet:
        yield lambda state: None, note
        return
    screen = console(stderr=True) if sys.stderr.isatty() else None
    if screen is None or screen.is_dumb_terminal or not screen.is_terminal:
        with announce_stop():
            yield _print_lines(clock), note
    else:
        with announce_stop(erase_line=True), _draw_line(screen, first, clock) as show:
            yield show, note if writes_json_lines() else screen.print


def keep_warning(keep_line: PrintLine, text: str) -> None:
    """Print a line that stays; where stderr is lines of JSON, it is a warning."""
    if writes_json_lines():
        warn(text)
    else:
        keep_line(printable(text))


def _print_lines(clock: Callable[[], float]) -> Show:
    pace, last = _Pace(clock), clock()

    def show(state: State) -> None:
        """Print the state as a line if the last one is old enough."""
        nonlocal last
        per_second = pace.measure(state)
        if pace.now - last >= LINE_EVERY:
            last = pace.now
            note(state if isinstance(state, str) else describe(state, per_second))

    return show


@contextmanager
def _draw_line(screen: Console, first: str, clock: Callable[[], float]) -> Iterator[Show]:
    """Draw a line that changes, and is erased in the end. Each drawing fits the width that the terminal has then."""
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    pace, spinner, began = _Pace(clock), Spinner("dots"), clock()
    shown: tuple[State, float | None] = (first, None)

    def show(state: State) -> None:
        """Let the next drawing show the state."""
        nonlocal shown
        shown = state, pace.measure(state)

    def draw() -> Spinner:
        """Return the line as it is now."""
        (state, per_second), room = shown, max(screen.width - 3, 1)  # the spinner, a space, and where the cursor is
        text = state if isinstance(state, str) else describe(state, per_second, room)
        elapsed = f"  {timedelta(seconds=int(clock() - began))}"
        line = Text(text + elapsed if len(text + elapsed) <= room else text)
        line.truncate(room, overflow="ellipsis")
        spinner.text = line
        return spinner

    try:
        with Live(console=screen, get_renderable=draw, transient=True, redirect_stdout=False, refresh_per_second=10):
            yield show
    finally:
        screen.show_cursor(True)  # a second Ctrl-C may have ended the clean-up before
