"""The output of commands: values, columns and the five formats."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.cli.formats.delimited import tsv_value
from saltctl.cli.output import Column, OutputFormat, columns_of, format_value, print_result

ANY_STRING = st.text(st.characters(exclude_categories=()))
RECORDS: list[dict[str, Any]] = [
    {"conversation_id": "a", "max_n": 1024, "in_sync": True, "consumed_rcu": 0.5, "error": None},
    {"conversation_id": "b\tb", "max_n": None, "in_sync": False, "consumed_rcu": 12.0, "error": "\x1b"},
]
COLUMNS = columns_of("conversation_id max_n in_sync consumed_rcu error", error="why")


@pytest.mark.slow
@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY_STRING, st.lists(ANY_STRING)))
def test_values_for_people_are_printable(value: object) -> None:
    """Any plain value becomes a printable string."""
    assert format_value(value).isprintable()


@pytest.mark.parametrize(("value", "shown"), [(-0.0001, "0"), (-0.0, "0"), (-1.5, "-1.5"), (1234.5, "1,234.5")])
def test_zero_has_no_sign(value: float, shown: str) -> None:
    """Nor has what rounds to zero."""
    assert format_value(value) == shown


def test_headings_are_the_keys_in_words() -> None:
    """A heading is derived from its key, unless it is given."""
    assert [column.title for column in COLUMNS] == ["conversation", "max_n", "in sync", "consumed RCU", "why"]


@pytest.mark.parametrize(
    ("column", "side"),
    [
        (Column("max_n"), "right"),
        (Column("consumed_rcu"), "right"),
        (Column("in_sync"), "left"),
        (Column("conversation_id"), "left"),
        (Column("no_such_key"), "left"),
        (Column("conversation_id", right=True), "right"),
        (Column("max_n", show=lambda record: "x"), "left"),
    ],
)
def test_numbers_are_aligned_right(column: Column, side: str) -> None:
    """The values decide about the alignment; a column may be aligned right in any case."""
    assert column.align(RECORDS) == side


def test_each_format_has_the_same_records(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON and JSONL have the values as they are, TSV and CSV have the columns, a table has the headings."""

    def printed(chosen: OutputFormat) -> str:
        print_result(RECORDS, chosen, columns=COLUMNS)
        return capsys.readouterr().out

    assert json.loads(printed("json")) == RECORDS
    assert [json.loads(line) for line in printed("jsonl").splitlines()] == RECORDS
    assert printed("tsv") == (
        "conversation_id\tmax_n\tin_sync\tconsumed_rcu\terror\na\t1024\ttrue\t0.5\t\nb\\tb\t\tfalse\t12.0\t\\x1b\n"
    )
    assert printed("csv") == (
        "conversation_id,max_n,in_sync,consumed_rcu,error\na,1024,true,0.5,\nb\\tb,,false,12.0,\\x1b\n"
    )
    header, _, first, second = printed("table").splitlines()
    assert header.split() == ["conversation", "max_n", "in", "sync", "consumed", "RCU", "why"]
    assert first.split() == ["a", "1,024", "yes", "0.5", "—"]
    assert second.split() == ["b\\tb", "—", "no", "12", "\\x1b"]


def test_an_empty_list_is_a_note_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """A table without rows is a line on stderr; TSV has its header, JSON an empty list."""
    print_result([], "table", columns=COLUMNS, empty="no entries")
    assert capsys.readouterr() == ("", "no entries\n")
    print_result([], "json", columns=COLUMNS)
    print_result([], "tsv", columns=columns_of("a b"))
    assert capsys.readouterr().out == "[]\na\tb\n"


@pytest.mark.parametrize("form", ["tsv", "csv"])
def test_a_pipe_gets_data_and_a_terminal_no_format_characters(
    form: OutputFormat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An override of the writing direction is data in a pipe. On a terminal it is an escape, which TSV takes back."""
    conversation = "a\u202eb\tc \U0001f469\u200d\U0001f680"
    print_result([{"conversation_id": conversation, "n": 1}], form, columns=columns_of("conversation_id n"))
    in_a_pipe = capsys.readouterr().out
    assert "a\u202eb\\tc \U0001f469\u200d\U0001f680" in in_a_pipe
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_result([{"conversation_id": conversation, "n": 1}], form, columns=columns_of("conversation_id n"))
    header, line = capsys.readouterr().out.split("\n")[:2]
    assert header.split("\t" if form == "tsv" else ",") == ["conversation_id", "n"]
    assert "a\\u202eb\\tc" in line
    assert line.replace("\t", "").replace("\u200d", "").isprintable()  # the joiner is part of an emoji
    if form == "tsv":
        assert tsv_value(line.split("\t")[0]) == conversation
