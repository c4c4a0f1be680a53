"""Times as sort keys: each form selects exactly the rows within a bound, and what is not sure is refused."""

from __future__ import annotations

import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saltctl.errors import UsageError
from saltctl.history.sort_key_form import learn_form
from saltctl.settings import SORT_KEY_FORMS
from saltctl.stores.contracts.messages import SortKey

NOW = datetime(2026, 11, 26, 12, 30, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
Write = Callable[[datetime, str], SortKey]


def units(at: datetime, per_second: int) -> int:
    """Return whole units since the epoch."""
    return (at - EPOCH) // timedelta(microseconds=1) * per_second // 10**6


def based(alphabet: str, number: int, width: int) -> str:
    """Write a number in the base of an alphabet."""
    return "".join(alphabet[number // len(alphabet) ** place % len(alphabet)] for place in reversed(range(width)))


def iso(pattern: str, hours: int = 0) -> Write:
    """Write times by a pattern of strftime, in a zone so many hours east."""
    return lambda at, tail: at.astimezone(timezone(timedelta(hours=hours))).strftime(pattern) + tail


def ulid(at: datetime, tail: str) -> str:
    """Write a ULID. Its random part comes from the tail."""
    return based(CROCKFORD, units(at, 1000), 10) + based(CROCKFORD, crc32(tail.encode()) % 2**80, 16)


def uuid7(at: datetime, tail: str) -> str:
    """Write a UUID of version 7."""
    digits = f"{units(at, 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-7{crc32(tail.encode()) % 4096:03x}-8def-0123456789ab"


def ksuid(at: datetime, tail: str) -> str:
    """Write a KSUID."""
    return based(BASE62, (units(at, 1) - 1_400_000_000 << 128) + crc32(tail.encode()) % 2**128, 27)


SECOND, MILLI, MICRO = timedelta(seconds=1), timedelta(milliseconds=1), timedelta(microseconds=1)
FORMS: dict[str, tuple[str, timedelta, Write]] = {
    "iso Z": ("iso", SECOND, iso("%Y-%m-%dT%H:%M:%SZ")),
    "iso without zone": ("iso", SECOND, iso("%Y-%m-%dT%H:%M:%S")),
    "iso space": ("iso", SECOND, iso("%Y-%m-%d %H:%M:%S")),
    "iso basic": ("iso", SECOND, iso("%Y%m%dT%H%M%SZ")),
    "iso compact": ("iso", SECOND, iso("%Y%m%d%H%M%S")),
    "iso offset": ("iso", SECOND, iso("%Y-%m-%dT%H:%M:%S+02:00", 2)),
    "iso offset of strftime": ("iso", SECOND, iso("%Y-%m-%dT%H:%M:%S-0500", -5)),
    "iso offset of PostgreSQL": ("iso", MICRO, iso("%Y-%m-%d %H:%M:%S.%f+02", 2)),
    "iso microseconds": ("iso", MICRO, iso("%Y-%m-%dT%H:%M:%S.%fZ")),
    "iso milliseconds": ("iso", MILLI, lambda at, tail: at.isoformat(timespec="milliseconds")[:23] + "Z" + tail),
    "iso nanoseconds": ("iso", MICRO, iso("%Y-%m-%dT%H:%M:%S.%f000Z")),
    "iso minutes": ("iso", timedelta(minutes=1), iso("%Y-%m-%dT%H:%MZ")),
    "date": ("iso", timedelta(days=1), iso("%Y-%m-%d")),
    "prefixed": ("iso", SECOND, iso("MSG#%Y-%m-%dT%H:%M:%SZ")),
    "epoch-s": ("epoch-s", SECOND, lambda at, tail: f"{units(at, 1)}{tail}"),
    "epoch-s with fractions": ("epoch-s", MILLI, lambda at, tail: f"{units(at, 1)}.{units(at, 1000) % 1000:03d}{tail}"),
    "epoch-ms": ("epoch-ms", MILLI, lambda at, tail: f"{units(at, 1000)}{tail}"),
    "epoch-ms padded": ("epoch-ms", MILLI, lambda at, tail: f"{units(at, 1000):020d}{tail}"),
    "epoch-us": ("epoch-us", MICRO, lambda at, tail: f"v1#m:{units(at, 10**6)}{tail}"),
    "epoch-ns": ("epoch-ns", MICRO, lambda at, tail: f"{units(at, 10**9)}{tail}"),
    "number s": ("epoch-s", MICRO, lambda at, tail: Decimal(units(at, 10**6)) / 10**6),
    "number ms": ("epoch-ms", MILLI, lambda at, tail: Decimal(units(at, 1000))),
    "number us": ("epoch-us", MICRO, lambda at, tail: Decimal(units(at, 10**6))),
    "number ns": ("epoch-ns", MICRO, lambda at, tail: Decimal(units(at, 10**9))),
    "ulid": ("ulid", MILLI, ulid),
    "ulid lower": ("ulid", MILLI, lambda at, tail: ulid(at, tail).lower()),
    "uuid7": ("uuid7", MILLI, uuid7),
    "uuid7 upper, prefixed": ("uuid7", MILLI, lambda at, tail: "M#" + uuid7(at, tail).upper()),
    "uuid7 without hyphens": ("uuid7", MILLI, lambda at, tail: uuid7(at, tail).replace("-", "")),
    "ksuid": ("ksuid", SECOND, ksuid),
}
TIMES = st.datetimes(datetime(2026, 1, 2), datetime(2026, 11, 26), timezones=st.just(UTC))
ROWS = st.lists(st.tuples(TIMES, st.sampled_from(["", "#m1", "#zz", "_a", "|7"])), min_size=1, max_size=8)


@pytest.mark.parametrize("case", FORMS)
@settings(max_examples=25, deadline=None)
@given(rows=ROWS, bound=TIMES, step=st.integers(-2, 2))
def test_a_bound_selects_exactly_the_rows_within(
    case: str, rows: list[tuple[datetime, str]], bound: datetime, step: int
) -> None:
    """For random times, and for bounds within microseconds of a row's time."""
    name, unit, write = FORMS[case]
    rows = [(EPOCH + (at - EPOCH) // unit * unit, tail) for at, tail in rows]
    form = learn_form([write(at, tail) for at, tail in rows], NOW)
    assert form.name == name
    for limit in (bound, rows[0][0], rows[0][0] + step * MICRO, rows[0][0] + step * unit):
        key = form.bound(limit)
        for at, tail in rows:
            assert (write(at, tail) >= key) == (at >= limit), (write(at, tail), key, limit)  # type: ignore[operator]


@settings(deadline=None)
@given(rows=ROWS, second=TIMES, bound=TIMES)
def test_fractions_of_several_lengths_take_whole_seconds(
    rows: list[tuple[datetime, str]], second: datetime, bound: datetime
) -> None:
    """Java omits zeros: such rows sort by time only from second to second. A finer bound is refused."""
    second = second.replace(microsecond=0)
    written = {f"{at:%Y-%m-%dT%H:%M:%S}.{at:%f}".rstrip("0").rstrip(".") + f"Z{tail}": at for at, tail in rows}
    written |= {f"{second:%Y-%m-%dT%H:%M:%S}Z": second, f"{second:%Y-%m-%dT%H:%M:%S}.5Z": second + 500_000 * MICRO}
    form = learn_form(list(written), NOW)
    for limit in (bound.replace(microsecond=0), second, second + SECOND):
        assert all((key >= str(form.bound(limit))) == (at >= limit) for key, at in written.items())
    with pytest.raises(UsageError, match="several lengths"):
        form.bound(second + MICRO)


# Each pair is rows of two forms, or of one form written in two ways.
PAIRS = [(a, b) for a in FORMS for b in FORMS if a < b and ("number" in a) == ("number" in b)]
SAME_STYLE = {("iso Z", "iso microseconds"), ("iso Z", "iso milliseconds"), ("iso Z", "iso nanoseconds")}
SAME_STYLE |= {("iso microseconds", "iso milliseconds"), ("iso microseconds", "iso nanoseconds")}
SAME_STYLE |= {("iso milliseconds", "iso nanoseconds"), ("epoch-s", "epoch-s with fractions")}
"""They differ in fractions of seconds alone."""


def test_rows_of_two_forms_are_refused() -> None:
    """Whichever comes first. The error names the options that take raw sort keys."""
    for one, other in PAIRS:
        if tuple(sorted((one, other))) in SAME_STYLE:
            continue
        keys = [FORMS[form][2](NOW - timedelta(days=1), "#m") for form in (one, other)]
        for pair in (keys, keys[::-1]):
            with pytest.raises(UsageError, match="do not all have the same form") as raised:
                learn_form(pair, NOW)
            assert "--since-key" in raised.value.hint
            assert "SALTCTL_SORT_KEY_FORM" in raised.value.hint


OTHER_TEXTS = """
m1
META
#
2026
0000000042
4915112345
1000000123
9007199254740991
20269999
2126000000000000000
1575000000000000000
66f1a2b3c4d5e6f708192a3b
a1b2c3d4-e5f6-4789-8abc-def012345678
-1795689600
999999999
1795689600123.5
8204310399999
2026-11-26T10:00:00[Europe/Berlin]
26-11-2026
2026-11-26T23:59:60Z
2026-02-30T10:00:00Z
MSG#-1795689600
2026-11-26T10:00:00 PM
2026-11-26 9:00
2026/11/26 10:00
2026-11-26 10:00:00 CET
""".strip().splitlines()
OTHER_NUMBERS = [Decimal(number) for number in ("7", "20261126", "2126000000000000000", "-1795689600", "17956896000")]


@pytest.mark.parametrize("key", [*OTHER_TEXTS, *OTHER_NUMBERS], ids=str)
def test_other_sort_keys_are_refused(key: SortKey) -> None:
    """Counters, snowflakes, object ids, reversed times, and times of an unknown zone are not times here."""
    with pytest.raises(UsageError, match="no form of a time that is known"):
        learn_form([key], NOW)


def test_offsets_that_differ_are_refused() -> None:
    """Their bytes do not sort by time: summer and winter time in one conversation."""
    keys = ["2026-11-26T10:00:00+01:00", "2026-07-26T10:00:00+02:00"]
    with pytest.raises(UsageError, match="same form"):
        learn_form(keys, NOW)


def test_prefixes_that_differ_are_refused() -> None:
    """Rows sort by sender first."""
    with pytest.raises(UsageError, match="same form"):
        learn_form(["MSG#bob#1795689600123", "MSG#alice#1795689600124"], NOW)


def test_a_named_form_skips_other_rows() -> None:
    """A row of another kind, such as META, is skipped; without a row of the form, it is refused."""
    keys = ["META", "1795689600123#m1", "2026-11-26"]
    assert learn_form(keys, NOW, "epoch-ms").bound(NOW) == "1795696200000"
    assert learn_form([Decimal(7)], NOW, "epoch-s").bound(NOW) == Decimal(1795696200)
    with pytest.raises(UsageError, match="known"):
        learn_form(keys, NOW, "ulid")


@pytest.mark.parametrize("name", SORT_KEY_FORMS)
def test_times_beyond_a_form(name: str) -> None:
    """Every row is after the year 1, and before the year 9999, unless the form can hold it."""
    for form_name, _, write in FORMS.values():
        if form_name == name:
            row = write(NOW, "#m")
            form = learn_form([row], NOW)
            first, last = (form.bound(datetime(year, 12, 31, 23, tzinfo=UTC)) for year in (1, 9999))
            assert first <= row < last  # type: ignore[operator]


def test_a_fraction_is_rounded_up_to_the_next_second() -> None:
    """If no fraction of the rows' length is left in the second."""
    form = learn_form(["2026-11-26T10:00:00.123Z"], NOW)
    assert form.bound(datetime(2026, 11, 26, 10, 0, 0, 998_001, UTC)) == "2026-11-26T10:00:00.999"
    assert form.bound(datetime(2026, 11, 26, 10, 0, 0, 999_001, UTC)) == "2026-11-26T10:00:01"


@pytest.mark.parametrize("other", ["META", "01A21A24-0d20-7abc-8def-0123456789ab", "1890000000000"])
def test_one_row_that_is_not_a_time_is_enough_to_refuse(other: str) -> None:
    """A word, a UUID in both cases, and a number of three years ahead, among rows that are times."""
    for like in ("2026-11-26T10:00:00Z", "01a21a24-0d20-7abc-8def-0123456789ab", "1795689600123"):
        with pytest.raises(UsageError, match="do not all have the same form"):
            learn_form([like, other], NOW)


def test_a_uuid_in_both_cases_is_not_a_time() -> None:
    """Its digits do not sort by their values, even if all rows are written so."""
    with pytest.raises(UsageError, match="no form of a time"):
        learn_form(["01A21A24-0d20-7abc-8def-0123456789ab"], NOW)
