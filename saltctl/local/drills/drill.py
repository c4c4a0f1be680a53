"""A drill and its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One action or check, whether it went as promised, and the figures."""

    what: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Drill:
    """A scenario: its name on the command line, one line about it, and the function that yields its steps."""

    name: str
    about: str
    run: Callable[[], Iterator[Step]]
