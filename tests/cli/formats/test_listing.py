"""Conversation ids read back from listings."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.cli.formats.delimited import tsv_field
from saltctl.cli.formats.listing import ids_of_listing

IDS = st.lists(st.text(min_size=1))


@given(IDS)
def test_each_format_gives_the_ids_back(ids: list[str]) -> None:
    """In their order, whatever other columns there are."""
    tsv = "max_n\tconversation_id\n" + "".join(f"2\t{tsv_field(name)}\n" for name in ids)
    assert ids_of_listing(tsv) == ids
    records = [{"max_n": 2, "conversation_id": name} for name in ids]
    assert ids_of_listing(json.dumps(records)) == ids
    lines = "".join(json.dumps(record) + "\n" for record in records)
    assert not ids or ids_of_listing(lines) == ids  # no lines at all are no listing


@pytest.mark.parametrize("listing", ["a b\n-c\ngröße,2\n", "a b\n-c\ngröße,2", "\na b\n\n-c\n \ngröße,2\n\n"])
def test_plain_ids_are_taken_as_they_are(listing: str) -> None:
    """One a line, as ``jq -r`` prints them. Blank lines are skipped, as in the file of ``registry set``."""
    assert ids_of_listing(listing) == ["a b", "-c", "größe,2"]


@pytest.mark.parametrize(
    "listing",
    [
        '{"at": 1, "conversation_id": null}\n\n{"at": 2, "conversation_id": "a"}\n',
        '[{"conversation_id": null}, {"conversation_id": "a"}]',
        "at\tconversation_id\n1\t\n\n2\ta\n",
    ],
)
def test_a_record_of_no_conversation_is_left_out(listing: str) -> None:
    """As an event of the fence, which ``incident`` lists among those of conversations."""
    assert ids_of_listing(listing) == ["a"]


@pytest.mark.parametrize(
    ("listing", "problem"),
    [
        ("", "it is empty"),
        ("\n", "it is empty"),
        ("a\nb\t2\n", "line 2 has a tab, a backslash or another"),
        ("a\nb\\\\c\n", "line 2 has a tab, a backslash"),
        ("a\r\nb\r\n", "line 1 has a tab"),
        ("\ufeffa\n", "line 1 has a tab"),
        ("conversation_id,max_n\na,2\n", "it is CSV"),
        ("conversation_id\tmax_n\na\n", "line 2: it has 1 field, and the header 2"),
        ("conversation_id\na\n\\q\n", "line 3: .* begins no escape"),
        ("conversation_id\r\na\r\n", "line 1 has a tab"),
        ("conversation_id\na\r\n", "line 2: it has a control character"),
        ('{"conversation_id": "a"}\n{"conversation_id"', "line 2 is not JSON"),
        ('{"id": "a"}\n', "record 1 has no conversation_id"),
        ('[{"conversation_id": 7}]', "record 1: conversation_id is not a string"),
        ('{"conversation_id": null}\n{"id": null}', "record 2 has no conversation_id"),
        ("[7]", "record 1 has no conversation_id"),
        ("[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_what_is_no_listing_is_refused(listing: str, problem: str) -> None:
    """CSV as well, since its guard against formulas changes ids."""
    with pytest.raises(ValueError, match=problem):
        ids_of_listing(listing)
