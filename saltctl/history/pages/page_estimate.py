"""Estimates the sort key at which the next page ends, from the distance between the rows of the page before it.

If sort keys have a distance, as numbers and times have, a page can ask each partition only for the rows before one
sort key, the estimated page end. It then reads little more than it returns, for any number of salts. A wrong estimate
costs a second round of queries and never a message.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from operator import gt, lt
from typing import Any

from saltctl.stores.contracts.messages import SortKey

MARGIN = 2.0
"""Standard deviations of extra rows before the page end. If messages come independently of each other, a page of 50
needs a second round about one time in ten."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(?:\.(\d{1,9}))?")
_NUMBER = re.compile(r"\d{1,18}(?![0-9A-Za-z])")
_LARGEST_EXPONENT = 124
"""DynamoDB accepts numbers from 1E-130 to below 1E+126 (documented); this stays just inside."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rows_before_page_end(wanted: int) -> int:
    """Return how many rows should lie before the estimated end of a page of ``wanted`` rows.

    Both the number of rows there and the distance measured on the page before vary by the square root of the count.
    """
    return wanted + math.ceil(MARGIN * math.sqrt(2 * wanted))


def average_distance(first: SortKey, last: SortKey, rows: int) -> float:
    """Return the average distance between neighbours of ``rows`` rows, in seconds for times; 0.0 if there is none."""
    ends = _to_number(first), _to_number(last)
    if rows < 2 or ends[0] is None or ends[1] is None:
        return 0.0
    distance = abs(ends[0] - ends[1]) / (rows - 1)
    return distance if math.isfinite(distance) else 0.0


def estimate_page_end(
    start: SortKey, distance: float, rows: int, *, descending: bool, bound: SortKey | None = None
) -> SortKey | None:
    """Return the sort key that is ``rows`` rows after ``start``; None if it is unknown or not before ``bound``."""
    number = _to_number(start)
    if number is None or not distance:
        return None
    end: Any = _to_sort_key(number - distance * rows if descending else number + distance * rows, start)
    is_before = gt if descending else lt
    return end if end is not None and is_before(start, end) and (bound is None or is_before(end, bound)) else None


def _to_number(key: SortKey) -> float | None:
    """Return a sort key as a number: seconds for an ISO 8601 time in any zone; None if it is neither."""
    if isinstance(key, Decimal):
        return float(key)
    if found := _TIME.match(key):
        try:
            moment = datetime.fromisoformat(key[:19]).replace(tzinfo=UTC)
        except ValueError:
            return None
        return (moment - _EPOCH).total_seconds() + float(f"0.{found[2] or 0}")
    return float(found[0]) if (found := _NUMBER.match(key)) else None


def _to_sort_key(number: float, like: SortKey) -> SortKey | None:
    """Return the sort key of a number, or a prefix of it, in the format of ``like``; None if it has no such form."""
    try:
        if isinstance(like, Decimal):
            exact = Decimal(repr(number))
            if number and abs(exact.logb()) > _LARGEST_EXPONENT:
                return None
            return exact.to_integral_value() if like == like.to_integral_value() else exact
        if found := _TIME.match(like):
            iso = (_EPOCH + timedelta(seconds=number)).replace(tzinfo=None).isoformat(found[1], "microseconds")
            digits = len(found[2] or "")
            return iso[: 20 + digits] if digits else iso[:19]
        width = len(found[0]) if (found := _NUMBER.match(like)) else 0
        padded = f"{int(number):0{width}d}"
        return padded if padded.isdigit() and len(padded) == width else None
    except (OverflowError, ValueError, InvalidOperation):
        return None  # before the first year, or beyond the range of numbers
