"""The estimated page end, from the distance between the rows of the page before: an estimate, never an error."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.history.attributes import tagged
from saltctl.history.pages.page_estimate import average_distance, estimate_page_end, rows_before_page_end

KEYS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.from_regex(r"[0-9]{1,20}(#m1)?", fullmatch=True),
    st.datetimes().map(lambda moment: moment.isoformat() + "Z#m1"),
    st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("-1e120"), max_value=Decimal("1e120")),
)


@pytest.mark.parametrize(
    ("newest", "oldest", "distance", "page_end"),
    [
        # 11 rows, so ten steps; the page ends 20 steps beyond the oldest.
        ("2026-07-01T08:00:10.000Z#m11", "2026-07-01T08:00:00.000Z#m1", 1.0, "2026-07-01T07:59:40.000"),
        ("2026-07-01 08:00:10+00:00#m11", "2026-07-01 08:00:00+00:00#m1", 1.0, "2026-07-01 07:59:40"),
        ("2026-01-01T00:00:00.000500Z", "2026-01-01T00:00:00.000000Z", 5e-5, "2025-12-31T23:59:59.999000"),
        ("1790000001000#m11", "1790000000000#m1", 100.0, "1789999998000"),
        ("000200", "000100", 10.0, None),
        ("000500", "000400", 10.0, "000200"),
        (Decimal(1_790_000_100), Decimal(1_790_000_000), 10.0, Decimal(1_789_999_800)),
        (Decimal("0.75"), Decimal("0.5"), 0.025, Decimal("0.0")),
    ],
)
def test_numbers_and_times_have_a_distance(newest: Any, oldest: Any, distance: float, page_end: Any) -> None:
    """Also across the end of a minute and of a year. A number that would lose digits has no page end."""
    assert average_distance(newest, oldest, 11) == pytest.approx(distance, rel=0.01)
    assert estimate_page_end(oldest, distance, 20, descending=True) == page_end


def test_oldest_first_estimates_forwards() -> None:
    """The page end is newer than the start."""
    assert estimate_page_end("2026-07-01T23:59:50Z#m1", 1.0, 20, descending=False) == "2026-07-02T00:00:10"
    assert estimate_page_end(Decimal(5), 2.0, 20, descending=False) == Decimal(45)


@pytest.mark.parametrize("key", ["m1", "#1", "", "2026-13-01T00:00:00Z", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "5f3a"])
def test_other_strings_have_no_page_end(key: str) -> None:
    """Ids that only look like numbers, and impossible dates, are not numbers."""
    assert estimate_page_end(key, 1.0, 10, descending=True) is None


def test_a_time_without_seconds_is_its_year() -> None:
    """The year is equal in both rows, so the distance is 0."""
    assert average_distance("2026-07-01T08:00", "2026-07-01T09:00", 5) == 0.0


def test_no_distance_no_page_end() -> None:
    """One row, or rows of the same time, have no distance."""
    assert average_distance("5", "5", 1) == average_distance("5", "5", 10) == 0.0
    assert estimate_page_end("5", 0.0, 10, descending=True) is None


@pytest.mark.slow
@given(KEYS, KEYS, st.integers(1, 10_000), st.floats(0, allow_infinity=False), st.booleans())
def test_any_keys_are_accepted(first: Any, last: Any, rows: int, distance: float, descending: bool) -> None:
    """For any keys and distance: a key that DynamoDB accepts, or None."""
    assert average_distance(first, last, rows) >= 0
    for guess in (distance, average_distance(first, last, rows)):
        found = estimate_page_end(last, guess, rows, descending=descending)
        if found is not None:
            assert type(found) is type(last)
            assert found != ""
            tagged(found)


@pytest.mark.parametrize("wanted", [1, 50, 1000])
def test_the_estimate_has_a_margin(wanted: int) -> None:
    """The estimate exceeds the wanted rows; the excess shrinks, relatively, as they grow."""
    assert wanted < rows_before_page_end(wanted) <= 4 * wanted
    assert rows_before_page_end(10 * wanted) < 10 * rows_before_page_end(wanted)
