"""Tables on terminals of any width: no id is broken, and nothing is left out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.cli.formats.tables import Heading, fit_columns, print_beside, print_fields, print_table

HEADINGS = (Heading("conversation"), Heading("max_n", right=True), Heading("last raise", prose=True))
WORDS = st.text("abc\u4f60\U0001f680", min_size=1, max_size=30)
ROW = st.tuples(
    st.lists(WORDS, min_size=1, max_size=3).map(" ".join),  # an id may hold spaces
    st.integers(0, 10**6).map(str),
    st.lists(WORDS, max_size=12).map(" ".join),
)


def screen_of(out: io.StringIO, width: int, **options: Any) -> Any:
    """Return a screen of this width."""
    from rich.console import Console

    return Console(file=out, width=width, **options)


def printed(width: int, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    out = io.StringIO()
    print_table(screen_of(out, width), HEADINGS, rows)
    return out.getvalue().split("\n")[:-1]


@pytest.mark.slow
@given(st.integers(20, 140), st.lists(ROW, min_size=1, max_size=4))
def test_ids_are_whole_and_words_are_not_broken(width: int, rows: list[tuple[str, str, str]]) -> None:
    """A line is wider than the screen only if it holds one value that is. Every heading and word is there."""
    from rich.cells import cell_len

    lines = printed(width, rows)
    shown = "\n".join(lines)
    words = shown.split()
    for conversation, n, raised in rows:
        assert any(conversation in line for line in lines)
        assert n in words
        assert {*raised.split()} <= {*words}
    assert all(heading.title in shown for heading in HEADINGS)
    for line in lines:
        if cell_len(line) > width:
            assert any(line.strip() in (conversation, *raised.split()) for conversation, _, raised in rows)


def test_no_line_ends_with_blanks() -> None:
    """Neither that of a narrow value nor that of an empty one: a diff of two outputs would show them."""
    lines = printed(60, [("a", "2", "short"), ("b", "4", ""), ("c", "8", "a longer reason than that")])
    assert [line.split("  ")[-1].strip() for line in lines[2:]] == ["short", "4", "a longer reason than that"]
    assert [line for line in lines if line != line.rstrip()] == []


def test_prose_gets_the_room_that_is_left() -> None:
    """Columns of ids and numbers have their own width."""
    rows = [("conv", "2", "to 2 by oncall: launch day of the new product")]
    assert fit_columns(HEADINGS, rows, 60) == [12, 5, 39]
    assert fit_columns(HEADINGS, rows, 200) == [12, 5, 45]
    assert fit_columns(HEADINGS, rows, 37) == [12, 5, 16]
    assert fit_columns(HEADINGS, rows, 36) is None
    two = (Heading("a", prose=True), Heading("b", prose=True))
    assert fit_columns(two, [("x " * 10, "y " * 100)], 100) == [20, 78]
    assert fit_columns(HEADINGS, [], 80) == [12, 5, 10]


def test_a_table_that_does_not_fit_becomes_fields() -> None:
    """Each record is a block; a value that does not fit beside its title is below it."""
    lines = printed(30, [("conv-\u4f60\u597d-0123456789", "16", "to 16 by local: above 800 writes"), ("b", "2", "")])
    assert lines == [
        *("conversation", "  conv-\u4f60\u597d-0123456789", "max_n         16"),
        *("last raise    to 16 by local:", "              above 800 writes"),
        *("", "conversation  b", "max_n         2", "last raise"),
    ]


def test_a_value_wider_than_the_screen_is_one_line() -> None:
    """The terminal wraps it, so that it is copied as one."""
    out = io.StringIO()
    print_fields(screen_of(out, 40), HEADINGS[:2], ["x" * 2000, "1"])
    assert out.getvalue() == f"conversation\n{'x' * 2000}\nmax_n         1\n"


def test_text_keeps_its_style() -> None:
    """Also where it is broken."""
    from rich.text import Text

    out = io.StringIO()
    screen = screen_of(out, 20, force_terminal=True, color_system="standard", no_color=False)
    print_beside(screen, Text("a"), Text("one two three four five", style="red"), 2)
    assert out.getvalue() == "a \x1b[31mone two three four\x1b[0m\n  \x1b[31mfive\x1b[0m\n"


def test_the_style_of_a_lead_ends_with_it() -> None:
    """Values beside a bold name are not bold."""
    from rich.text import Text

    out = io.StringIO()
    screen = screen_of(out, 40, force_terminal=True, color_system="standard", no_color=False)
    print_beside(screen, Text("name", style="bold"), Text("value"), 8)
    assert out.getvalue() == "\x1b[1mname\x1b[0m    value\n"
