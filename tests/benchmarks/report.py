"""Plain tables, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

WIDTH = 80
_WIDE, _NARROW = "  ", " "
"""The gaps between columns: narrow if the table would be too wide otherwise."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table. The first column is aligned to the left, the others to the right. Notes follow below."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def render(self) -> str:
        """Return the table as lines, with a line break at the end."""
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
    """The result of a benchmark."""

    def tables(self) -> list[Table]:
        """Return the tables to print."""
        ...


class WrongResultError(Exception):
    """A contender did not do its work, so its time is meaningless."""


def times(count: int, noun: str) -> str:
    """Return ``1 round``, ``3 rounds``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def at_most(value: float, bound: float) -> str:
    """Return the cell of a goal, such as ``<= 1.15 missed``."""
    return f"<= {bound:g} {'reached' if value <= bound else 'missed'}"


def at_least(value: float, bound: float) -> str:
    """Return the cell of a goal, such as ``>= 20 reached``."""
    return f">= {bound:,g} {'reached' if value >= bound else 'missed'}"
