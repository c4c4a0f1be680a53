"""Tables of plain text, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

WIDTH = 80
_WIDE, _NARROW = "  ", " "
"""Between columns: the second one where numbers came out so wide that the table would not fit with the first."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table: the first column is text, every other one is aligned to the right. Notes stand below it."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def render(self) -> str:
        """The table as text that ends with a line break."""
        cells = [list(self.headings), *(list(row) for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.headings))]
        gap = _WIDE if sum(widths) + len(_WIDE) * (len(widths) - 1) <= WIDTH else _NARROW
        lines = [self.title, "-" * min(WIDTH, sum(widths) + len(gap) * (len(widths) - 1))]
        for row in cells:
            first, *others = row
            aligned = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            lines.append(gap.join([first.ljust(widths[0]), *aligned]).rstrip())
        for note in self.notes:
            lines += textwrap.wrap(note, WIDTH, initial_indent="  ", subsequent_indent="  ")
        return "\n".join(lines) + "\n"


class Outcome(Protocol):
    """What a benchmark returns: its figures, the proof that the work was done right, and how to show both."""

    def tables(self) -> list[Table]:
        """The tables to print."""
        ...


class WrongResultError(Exception):
    """A contender did not do the work: its time would mean nothing."""


def times(count: int, what: str) -> str:
    """``1 round``, ``3 rounds``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def at_most(value: float, bound: float) -> str:
    """A goal's cell: ``<= 1.15 missed``."""
    return f"<= {bound:g} {'reached' if value <= bound else 'missed'}"


def at_least(value: float, bound: float) -> str:
    """A goal's cell: ``>= 20 reached``."""
    return f">= {bound:,g} {'reached' if value >= bound else 'missed'}"
