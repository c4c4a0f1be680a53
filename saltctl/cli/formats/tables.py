"""Tables for people. No word is broken, and nothing is left out: what does not fit becomes lines of fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

_GAP = 2
"""Spaces between columns."""
_MIN_PROSE = 16
"""Cells that prose gets at least: narrower, it would be a ladder of words."""


@dataclass(frozen=True)
class Heading:
    """The heading of a column. ``prose`` may be broken between words; any other value stays on one line."""

    title: str
    right: bool = False
    prose: bool = False


def print_table(screen: Console, headings: Sequence[Heading], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, or each row as lines of fields if the screen is too narrow for it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    widths = fit_columns(headings, rows, screen.width)
    if widths is None:
        for number, row in enumerate(rows):
            if number:
                screen.print()
            print_fields(screen, headings, row)
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, header_style="bold")
    for heading, width in zip(headings, widths, strict=True):
        table.add_column(Text(heading.title), justify="right" if heading.right else "left", width=width, no_wrap=True)
    for row in rows:
        # Broken here: Rich would drop the end of some lines of wide characters.
        table.add_row(*(Text("\n").join(_wrap(Text(value), width)) for value, width in zip(row, widths, strict=True)))
    print_unpadded(screen, table)


def print_unpadded(screen: Console, table: Table | Padding) -> None:
    """Print a table of Rich without the blanks that it ends its lines with."""
    from rich.segment import Segment, Segments

    for line in screen.render_lines(table, pad=False):
        while line and not line[-1].text.rstrip(" "):
            line.pop()
        if line:
            line[-1] = Segment(line[-1].text.rstrip(" "), line[-1].style)
        screen.print(Segments([*line, Segment.line()]), crop=False)


def fit_columns(headings: Sequence[Heading], rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Return the width of each column in cells, of at most ``width`` in all; None if they need more."""
    from rich.cells import cell_len

    cells = [[heading.title, *(row[at] for row in rows)] for at, heading in enumerate(headings)]
    natural = [max(map(cell_len, column)) for column in cells]
    widths = list(natural)
    prose = [at for at, heading in enumerate(headings) if heading.prose]
    for at in prose:
        words = (word for cell in cells[at][1:] for word in cell.split(" "))
        longest = max(map(cell_len, words), default=0)
        widths[at] = max(longest, cell_len(cells[at][0]), min(natural[at], _MIN_PROSE))
    spare = width - sum(widths) - _GAP * (len(widths) - 1)
    if spare < 0:
        return None
    prose.sort(key=lambda at: natural[at] - widths[at])  # what needs little leaves its share to the others
    for number, at in enumerate(prose):
        more = min(natural[at] - widths[at], spare // (len(prose) - number))
        widths[at] += more
        spare -= more
    return widths


def print_fields(screen: Console, headings: Sequence[Heading], values: Sequence[str]) -> None:
    """Print one record: a line for each title and its value. A value that does not fit has a line of its own."""
    from rich.cells import cell_len
    from rich.text import Text

    label = max(cell_len(heading.title) for heading in headings) + _GAP
    for heading, value in zip(headings, values, strict=True):
        print_beside(screen, Text(heading.title, style="bold"), Text(value), label, prose=heading.prose)


def print_beside(screen: Console, lead: Text, text: Text, label: int, *, prose: bool = True) -> None:
    """Print a text beside its lead, as :func:`lines_beside` lays it out: no line is broken or cut off."""
    for line in lines_beside(lead, text, screen.width, label, prose=prose):
        screen.print(line, soft_wrap=True)


def lines_beside(lead: Text, text: Text, width: int, label: int, *, prose: bool = True) -> list[Text]:
    """Return the lines of a text beside its lead, from cell ``label`` on; below it if there is too little room.

    Prose is broken between words. A word, and what is no prose, is one line, even if that is wider than the screen.
    """
    from rich.text import Text as Line

    lead = Line().append_text(lead)  # its style is that of the lead alone
    first, *below = _lines(text, width, label, prose=prose)
    if first.plain:
        lead.pad_right(label - lead.cell_len)
    return [lead.append_text(first), *below]


def _lines(text: Text, width: int, label: int, *, prose: bool) -> list[Text]:
    """Return the text beside a lead, and the lines below."""
    from rich.cells import cell_len
    from rich.text import Text as Line

    room = width - label
    if text.cell_len <= room:
        return [text]
    longest = max(map(cell_len, text.plain.split(" "))) if prose else text.cell_len
    beside = prose and longest <= room and room >= _MIN_PROSE
    lines = _wrap(text, room if beside else width - _GAP) if prose else [text]
    indent = " " * (label if beside else _GAP if longest <= width - _GAP else 0)
    indented = [Line(indent).append_text(line) for line in lines]
    return [lines[0], *indented[1:]] if beside else [Line(), *indented]


def _wrap(text: Text, width: int) -> list[Text]:
    """Break a text between words only."""
    from rich.cells import cell_len

    breaks, at, filled = [], 0, -1
    for word in text.plain.split(" "):
        if filled >= 0 and filled + 1 + cell_len(word) > width:
            breaks.append(at)
            filled = -1
        filled += 1 + cell_len(word)
        at += len(word) + 1
    lines = list(text.divide(breaks))
    for line in lines:
        line.rstrip()
    return lines
