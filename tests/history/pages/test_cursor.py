"""Cursors: exact round trips, and refusal of every other string."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from decimal import Decimal
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.errors import InvalidCursorError
from saltctl.history.pages.cursor import BASE, MAX_ID, Cursor, Position, decode, encode

NUMBERS = st.builds("{}E{}".format, st.integers(1 - 10**38, 10**38 - 1), st.integers(-130, 88)).map(Decimal)
"""Every number that DynamoDB can store."""
STRINGS = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.one_of(STRINGS, NUMBERS)
DISTANCES = st.floats(0, allow_infinity=False)
TIES = st.tuples(STRINGS, st.just("0123456789abcdef" * 2))
POSITIONS = st.builds(Position, KEYS, st.integers(BASE, 65535), st.none() | TIES)
CURSORS = st.builds(Cursor, POSITIONS, st.sampled_from([1, 2, 4, 8, 16, 65536]), DISTANCES)
SAMPLE = encode(Cursor(Position("2026-07-01T08:00:00.000Z#m1", 3), 4), "conv")


def sort_type(cursor: Cursor) -> str:
    """Return the type of the sort key of a cursor."""
    return "S" if isinstance(cursor.position.sort_key, str) else "N"


@pytest.mark.slow
@given(CURSORS)
def test_a_round_trip_is_exact(cursor: Cursor) -> None:
    """A cursor is a string that is safe in URLs, and is decoded exactly."""
    text = encode(cursor, "conv")
    assert text.isascii()
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert decode(text, "conv", sort_type(cursor)) == cursor


@pytest.mark.slow
@given(CURSORS, st.data())
def test_a_damaged_cursor_is_refused(cursor: Cursor, data: st.DataObject) -> None:
    """One changed, lost or added character is refused, at any place."""
    text = encode(cursor, "conv")
    at = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.sampled_from("AZaz09-_=+ \nä"))
    damaged = data.draw(
        st.sampled_from([text[:at] + character + text[at + 1 :], text[:at] + character + text[at:], text[:at]])
    )
    if damaged != text:
        with pytest.raises(InvalidCursorError):
            decode(damaged, "conv", sort_type(cursor))


@pytest.mark.parametrize("text", ["", "x", "null", "💬", "A" * 5000, "W10", "bm90IGEgY3Vyc29y"])
def test_other_strings_are_refused(text: str) -> None:
    """Other strings are refused, of any length."""
    with pytest.raises(InvalidCursorError, match="is not a cursor"):
        decode(text, "conv", "S")


GENUINE = urlsafe_b64decode(SAMPLE + "=" * (-len(SAMPLE) % 4))
BOUND = json.loads(GENUINE[8:])[1]
"""The element of a cursor that binds it to the conversation "conv"."""


def forge(payload: object) -> str:
    """Return a cursor with a correct digest, which is not secret."""
    body = json.dumps(payload).encode()
    return urlsafe_b64encode(sha256(b"saltctl cursor\0" + body).digest()[:8] + body).decode().rstrip("=")


def test_a_digest_belongs_to_one_cursor() -> None:
    """A payload under the digest of another cursor is refused, and so is another spelling of a cursor."""
    other = urlsafe_b64encode(GENUINE[:8] + json.dumps([2, BOUND, "S", "k", 0, 1, 0.0]).encode()).decode().rstrip("=")
    for text in (other, SAMPLE[:5] + "\n" + SAMPLE[5:], SAMPLE + "=" * (-len(SAMPLE) % 4 or 4)):
        with pytest.raises(InvalidCursorError, match="is not a cursor"):
            decode(text, "conv", "S")


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"2": 2},
        7,
        None,
        [],
        [[2]],
        ["2"],
        [2],
        [True, BOUND, "S", "k", 0, 1, 0.0],
        [2, BOUND, "S", "k", 0, 1],
        [2, BOUND, "S", "k", 0, 1, 0.0, "m", "f"],
        [2, BOUND, "S", 5, 0, 1, 0.0],
        [2, BOUND, "S", "k", True, 1, 0.0],
        [2, BOUND, "N", "nan?", 0, 1, 0.0],
        [2, BOUND, "S", "k", 0, 1, -1.0],
        [2, BOUND, "S", "k", 0, 1, 1],
        [2, BOUND, "S", "k", 0, 1, float("inf")],
        [2, BOUND, "S", "k", 0, 1, float("nan")],
        [2, BOUND, "S", "\ud800", 0, 1, 0.0],
        [2, BOUND, "S", "k" * 20_000, 0, 1, 0.0],
        [3, BOUND, "S", "k", 0, 1, 0.0],
        [3, BOUND, "S", "k", 0, 1, 0.0, "m"],
        [3, BOUND, "S", "k", 0, 1, 0.0, "m", None],
        [3, BOUND, "S", "k", 0, 1, 0.0, "m", "f", "x"],
        [3, BOUND, "S", "k", 0, 1, 0.0, "\ud800", "f"],
    ],
    ids=lambda payload: str(payload)[:30],
)
def test_a_forged_cursor_is_refused(payload: object) -> None:
    """A payload that no release encodes is refused, also under a correct digest."""
    with pytest.raises(InvalidCursorError, match="is not a cursor"):
        decode(forge(payload), "conv", "S")
    assert decode(forge([2, BOUND, "S", "k", 0, 1, 0.0]), "conv", "S").position == Position("k", 0)


@pytest.mark.parametrize("key", ["1E+126", "1E+999999", "1" * 39, "1_0", " 5", "\uff15", "Infinity", "sNaN", ""])
def test_a_number_that_no_table_holds_is_not_a_cursor(key: str) -> None:
    """DynamoDB would refuse it, or read another number."""
    genuine = urlsafe_b64decode(encode(Cursor(Position(Decimal(5), BASE), 1), "conv") + "==")[8:]
    forged = forge([*json.loads(genuine)[:3], key, *json.loads(genuine)[4:]])
    with pytest.raises(InvalidCursorError, match="is not a cursor"):
        decode(forged, "conv", "N")


@pytest.mark.parametrize("text", ["\x01", "\x7f", "ä", "💬", '"', "k"])
def test_the_longest_cursor_is_accepted(text: str) -> None:
    """A sort key of 1,024 bytes, and an id as long as a cursor can have, of characters that take most room."""
    key = text * (1024 // len(text.encode()))
    cursor = Cursor(Position(key, 65535, (text * MAX_ID, "f" * 32)), 65536, 1.234e-100)
    assert decode(encode(cursor, "conv"), "conv", "S") == cursor


@pytest.mark.parametrize("version", [0, 1, 4, 10**300])
def test_a_cursor_of_another_version_is_refused_as_such(version: int) -> None:
    """It is not damaged: the error names the cause."""
    with pytest.raises(InvalidCursorError, match="comes from another release"):
        decode(forge([version, "anything"]), "conv", "S")


def test_a_cursor_is_bound_to_its_conversation_and_type() -> None:
    """The error of a foreign cursor names the cause: another conversation, or a table with other keys."""
    with pytest.raises(InvalidCursorError, match="does not belong to the conversation 'other'"):
        decode(SAMPLE, "other", "S")
    with pytest.raises(InvalidCursorError, match="another table"):
        decode(SAMPLE, "conv", "N")


def test_numbers_keep_every_digit() -> None:
    """A number that a float cannot hold is decoded exactly."""
    number = Decimal("1700000000000.0000000000000000000000001")
    text = encode(Cursor(Position(number, BASE), 1), "conv")
    assert decode(text, "conv", "N").position.sort_key == number
