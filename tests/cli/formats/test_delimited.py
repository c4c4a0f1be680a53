"""TSV and CSV fields: TSV loses nothing, and CSV holds no formula."""

from __future__ import annotations

import csv
import io
import re
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.cli.formats.delimited import csv_field, tsv_field, tsv_value

ANY_STRING = st.text(st.characters(exclude_categories=()))
EMOJI = "\U0001f469\u200d\U0001f680 \u2764\ufe0f \U0001f3f4\U000e0067\U000e007f"


@given(ANY_STRING)
def test_a_tsv_field_is_the_value_and_nothing_is_lost(text: str) -> None:
    """It has no control character, so it is one field of one line, and it is turned back into the value."""
    field = tsv_field(text)
    assert not [c for c in field if category(c) in ("Cc", "Cs")]
    assert tsv_value(field) == text


@given(st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\\")))
def test_tsv_escapes_nothing_else(text: str) -> None:
    """Formulas, emoji and writing directions are as they are."""
    assert tsv_field(text) == text


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("-dash", "-dash"),
        ("=1+1", "=1+1"),
        (" a ", " a "),
        (EMOJI, EMOJI),
        ("a\\b", r"a\\b"),
        ("\t\n\r", r"\t\n\r"),
        ("\x1b\0\x85", r"\x1b\x00\x85"),
        ("\udcff", r"\udcff"),
    ],
)
def test_the_escapes_of_tsv(value: str, field: str) -> None:
    """Those of the contract: backslash, tab, newline, carriage return, and control characters by their number."""
    assert tsv_field(value) == field


@pytest.mark.parametrize("field", ["\\", r"a\b", r"\x1", r"\x1B", r"\u12", r"\U00110000", r"a\\\ "])
def test_an_escape_that_is_none_is_refused(field: str) -> None:
    """It is never taken for a value."""
    with pytest.raises(ValueError, match=r"backslash|range"):
        tsv_value(field)


def test_a_poor_locale_changes_no_value() -> None:
    """Characters that the encoding lacks are written as escapes, which are understood."""
    value = "caf\u00e9 \u4f60 \U0001f600 \\u4f60"
    assert tsv_value(tsv_field(value).encode("ascii", "backslashreplace").decode()) == value


@given(ANY_STRING)
def test_a_csv_field_is_no_formula(text: str) -> None:
    """Whatever space stands before it. The csv module reads it back as one line."""
    field = csv_field(text)
    assert not re.match(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]", field)
    assert field.removeprefix("'") == csv_field(text).removeprefix("'")
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerow([field, "x"])
    assert list(csv.reader(io.StringIO(written.getvalue()))) == [[field, "x"]]


@pytest.mark.parametrize(
    ("value", "field"), [("-1", "'-1"), (" =A1", "' =A1"), ("a=1", "a=1"), ("\t=1", r"\t=1"), (r"\t", r"\\t")]
)
def test_the_guard_of_csv(value: str, field: str) -> None:
    """An apostrophe in front makes a text of a formula; a tab and a backslash before a t differ."""
    assert csv_field(value) == field
