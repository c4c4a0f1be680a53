"""Attribute values: exact round trips of every DynamoDB type, and equality that respects types."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.errors import UsageError
from saltctl.history.attributes import exact_number, fingerprint, plain, plain_item, tagged

NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**30), max_value=10**30)
TEXTS = st.text(max_size=8)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.binary(max_size=8))
SETS = st.one_of(*(st.sets(kind, min_size=1, max_size=4) for kind in (TEXTS, NUMBERS, st.binary(max_size=4))))
VALUES = st.recursive(
    st.one_of(SCALARS, SETS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """Return a value with the types of its parts, since True == 1 in Python."""
    if isinstance(value, dict):
        return {name: typed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    return type(value), value


@pytest.mark.slow
@given(VALUES)
def test_a_round_trip_is_exact(value: Any) -> None:
    """Every value that can be stored is read as it was written, with each digit and type."""
    assert typed(plain(tagged(value))) == typed(value)


@pytest.mark.parametrize("number", ["12345678901234567890123456789012345678", "1E-130", "-9.9E+125", "0.1", "0"])
def test_numbers_keep_every_digit(number: str) -> None:
    """They have up to 38 digits and the whole range of DynamoDB, and are never converted to float."""
    assert plain(tagged(Decimal(number))) == Decimal(number)
    assert Decimal(tagged(Decimal(number))["N"]) == Decimal(number)


@pytest.mark.parametrize(("text", "number"), [("+5", 5), ("007", 7), (".5", Decimal("0.5")), ("1e3", 1000), ("-0", 0)])
def test_a_string_is_a_number_as_dynamodb_reads_it(text: str, number: Decimal) -> None:
    """A sign, a point and an exponent are part of a number."""
    assert exact_number(text) == number


@pytest.mark.parametrize(
    "value",
    [
        "",
        " 5",
        "5 ",
        "5\n",
        "1_000",
        "\uff11",
        "0x1",
        "NaN",
        "Infinity",
        "1e",
        "1E+999999",
        "1" * 39,
        "9" * 2000,
        True,
        1.5,
        None,
        b"5",
        (0, (1,), 0),
        Decimal("sNaN"),
        Decimal("-Infinity"),
    ],
    ids=lambda value: f"{value!r:.20}",
)
def test_what_dynamodb_does_not_read_is_not_a_number(value: object) -> None:
    """Python would read some of them. None becomes another number, and none is an internal error."""
    with pytest.raises(UsageError):
        exact_number(value)


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        Decimal("NaN"),
        Decimal("1E126"),
        Decimal("1E-131"),
        10**38 + 1,
        set(),
        {"a", 1},
        {True},
        {1: "a"},
        object(),
        "\ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_would_change_is_refused(value: Any) -> None:
    """A value that DynamoDB does not have, or would round, is an error before any request."""
    with pytest.raises(UsageError):
        tagged(value)


@pytest.mark.slow
@given(VALUES, VALUES)
def test_rows_are_equal_in_all_but_their_partition(one: Any, other: Any) -> None:
    """Equal values have equal fingerprints, and different values do not. The partition is ignored."""
    first = {"p": {"S": "conv"}, "v": tagged(one)}
    second = {"p": {"S": "conv#1"}, "v": tagged(other)}
    same = fingerprint(first, without="p") == fingerprint(second, without="p")
    assert same is (typed(one) == typed(other))


def test_equality_respects_types_and_ignores_the_order_of_sets() -> None:
    """The number 1 is not true. The order of a set and the trailing zeros of a number are ignored."""

    def of(value: dict[str, Any]) -> Any:
        return fingerprint({"v": value}, without="p")

    assert of({"N": "1"}) != of({"BOOL": True})
    assert of({"S": "1"}) != of({"N": "1"})
    assert of({"SS": ["a", "b"]}) == of({"SS": ["b", "a"]})
    assert of({"SS": ["a"]}) != of({"L": [{"S": "a"}]})
    assert of({"N": "1.0"}) == of({"N": "1"})
    assert plain_item({"v": {"NS": ["1", "2.50"]}}) == {"v": {Decimal(1), Decimal("2.5")}}
