"""Strings for a terminal: hostile characters are escaped, and commands can be pasted."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.cli.formats.text import break_prose, counted, format_age, printable, printable_json, scan_cost

ANY_STRING = st.text(st.characters(exclude_categories=()))


@given(ANY_STRING)
def test_printable_escapes_every_other_character(text: str) -> None:
    """The result is printable, but for the joiner of an emoji, and a printable string is unchanged."""
    assert printable(text).replace("\u200d", "").isprintable()
    if text.isprintable():
        assert printable(text) == text


@pytest.mark.parametrize(
    "emoji",
    [
        *(
            "\U0001f468\u200d\U0001f469\u200d\U0001f467",
            "\U0001f469\U0001f3fd\u200d\U0001f680",
            "\u2764\ufe0f\u200d\U0001f525",
        ),
        *("\U0001f3f4\u200d\u2620\ufe0f", "\U0001f642\u200d\u2194\ufe0f"),
    ],
)
def test_an_emoji_is_shown_as_it_is(emoji: str) -> None:
    """A family or a profession is one picture, and can be copied; so is an id that holds it."""
    assert printable(f"a{emoji}\x1b") == f"a{emoji}\\x1b"


@pytest.mark.parametrize(
    "text",
    [
        "a\u200db",
        "\U0001f469\u200d",
        "\u200d\U0001f469",
        "a\u200d\U0001f469",
        "\u0915\u200d\u0937",
        "a\ufe0f\u200d\u2764",
    ],
)
def test_a_joiner_that_joins_no_emoji_is_escaped(text: str) -> None:
    """It cannot be seen, so two ids would look the same."""
    assert printable(text) == text.replace("\u200d", "\\u200d")


def test_a_count_of_one_has_a_singular_noun() -> None:
    """The default plural ends in s; another one can be given."""
    assert [counted(n, "message") for n in (0, 1, 2000)] == ["0 messages", "1 message", "2,000 messages"]
    assert [counted(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]


def test_the_cost_of_a_scan_may_be_unknown() -> None:
    """It is not shown as about zero."""
    assert scan_cost(1000, 5000, 2) == "it costs about 2 read capacity units for 1,000 items (5,000 bytes)"
    assert scan_cost(None, None, None).startswith("the cost is unknown")


@given(ANY_STRING)
def test_printable_json_changes_no_value(text: str) -> None:
    """Escaped documents have the same values."""
    document = printable_json(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(document) == {"a": text}
    assert all(c.isprintable() for c in document)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_json_is_ascii_where_the_locale_is_not_utf8(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON is UTF-8 everywhere, and Python's own escapes, such as ``\\xe9``, are none of JSON."""
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    document = printable_json('{\n  "größe \\\\": "\U0001f600"\n}')
    assert document == '{\n  "gr\\u00f6\\u00dfe \\\\": "\\ud83d\\ude00"\n}'


def test_ages_are_short_and_invalid_times_unchanged() -> None:
    """Times of raises come from a table that other programs can write to."""
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert format_age("2026-01-01T23:57:00Z", now) == "3m ago"
    assert format_age("2026-01-01T22:00:00Z", now) == "2h ago"
    assert format_age("2025-12-25T00:00:00Z", now) == "8d ago"
    assert format_age("2026-01-03T00:00:00Z", now) == "2026-01-03T00:00:00Z"
    assert format_age("yesterday", now) == "yesterday"
    assert format_age("2026-01-01T23:57:00", now) == "2026-01-01T23:57:00"


def test_prose_is_broken_between_words_and_commands_are_not() -> None:
    """A terminal would break a word; a command has to be copied in one piece."""
    warning = "warning: this endpoint has no Contributor Insights, so the hot keys are unknown"
    command = "  try: saltctl history read conv --before " + "x" * 60
    broken = break_prose(f"{warning}\n  {warning}\n{command}\nshort", 40).split("\n")
    assert broken[0] == "warning: this endpoint has no"
    assert [line[:2] for line in broken[3:5]] == ["  ", "  "]
    assert broken[-2:] == [command, "short"]
    assert " ".join(" ".join(broken[:-2]).split()) == f"{warning} {warning}"
    assert break_prose("y" * 50, 40) == "y" * 50
