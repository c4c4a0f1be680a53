"""How far a page probably reaches, guessed by the pace of the page before it.

Where sort keys have a distance, as numbers and times have, a page can ask every partition for what lies
before one sort key, the horizon, instead of for its share of the rows and a margin: it then reads little
more than it returns, however many salts there are. A wrong guess costs a second round, never a message.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation

from saltctl.stores.contracts import SortKey

MARGIN = 2.0
"""Standard deviations of what lies before the horizon, above what the page needs: a page of 50 whose messages come
independently of one another falls short about one time in ten."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(?:\.(\d{1,9}))?")
_NUMBER = re.compile(r"\d{1,18}(?![0-9A-Za-z])")
_LARGEST_EXPONENT = 124
"""DynamoDB takes numbers from 1E-130 to below 1E+126 (documented); nearly as far as that."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rows_within(wanted: int) -> int:
    """How many rows should lie before the horizon of a page of ``wanted``.

    The count itself varies by its root, and so does the page by which the pace was judged, where rows come
    independently of one another.
    """
    return wanted + math.ceil(MARGIN * math.sqrt(2 * wanted))


def pace_of(first: SortKey, last: SortKey, rows: int) -> float:
    """The distance from one row to the next, seconds for times, over ``rows`` rows; 0.0 where there is none."""
    ends = _place(first), _place(last)
    if rows < 2 or ends[0] is None or ends[1] is None:
        return 0.0
    pace = abs(ends[0] - ends[1]) / (rows - 1)
    return pace if math.isfinite(pace) else 0.0


def horizon_of(key: SortKey, pace: float, rows: int, *, descending: bool) -> SortKey | None:
    """The sort key that is ``rows`` rows away from ``key`` at this pace, or None where nobody can say."""
    place = _place(key)
    if place is None or not pace:
        return None
    return _key_at(place - pace * rows if descending else place + pace * rows, key)


def _place(key: SortKey) -> float | None:
    """A sort key as a number: seconds for a time of ISO 8601, whatever its zone is; None where it is none."""
    if isinstance(key, Decimal):
        return float(key)
    if found := _TIME.match(key):
        try:
            moment = datetime.fromisoformat(key[:19]).replace(tzinfo=UTC)
        except ValueError:
            return None
        return (moment - _EPOCH).total_seconds() + float(f"0.{found[2] or 0}")
    return float(found[0]) if (found := _NUMBER.match(key)) else None


def _key_at(place: float, like: SortKey) -> SortKey | None:
    """The sort key at a place, or where it begins, written as ``like`` is."""
    try:
        if isinstance(like, Decimal):
            exact = Decimal(repr(place))
            if place and abs(exact.logb()) > _LARGEST_EXPONENT:
                return None
            return exact.to_integral_value() if like == like.to_integral_value() else exact
        if found := _TIME.match(like):
            text = (_EPOCH + timedelta(seconds=place)).replace(tzinfo=None).isoformat(found[1], "microseconds")
            digits = len(found[2] or "")
            return text[: 20 + digits] if digits else text[:19]
        width = len(found[0]) if (found := _NUMBER.match(like)) else 0
        text = f"{int(place):0{width}d}"
        return text if text.isdigit() and len(text) == width else None
    except (OverflowError, ValueError, InvalidOperation):
        return None  # before the first year, beyond what a number can be
