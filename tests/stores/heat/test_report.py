"""Parsing of heat reports: valid reports, and the reason for each invalid one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.stores.heat.report import (
    MAX_ENTRY_BYTES,
    MAX_REPORTS,
    MAX_THROTTLED_N,
    MAX_WRITES,
    BadReportError,
    HeatReport,
    parse,
    to_entries,
)

NOW = 1_800_000_000.0


def flat(**changes: bytes | None) -> list[bytes]:
    """The fields of a good report, with changes; None leaves one out."""
    fields: dict[str, bytes | None] = {
        "v": b"1",
        "conversation_id": b"conv_1",
        "server": b"app-1",
        "window": b"1799999999",
        "writes": b"42",
    }
    fields.update(changes)
    return [part for name, value in fields.items() if value is not None for part in (name.encode(), value)]


def several(reports: bytes = b'[["conv_1",42],["conv_2",7,4]]', **changes: bytes | None) -> list[bytes]:
    """The fields of a good entry with two reports, with changes."""
    fields = {"v": b"2", "conversation_id": None, "writes": None, "reports": reports, **changes}
    return flat(**fields)


def as_redis_returns(fields: Sequence[str | int]) -> list[bytes]:
    """Return the fields as XREADGROUP returns them."""
    return [str(part).encode() for part in fields]


@pytest.mark.parametrize("throttled_n", [0, 4])
def test_a_report_survives_the_stream(throttled_n: int) -> None:
    """The parsed report equals the sent one, even with names in other scripts."""
    report = HeatReport("conv_äöü", "app-1:77:ff", int(NOW), 812, throttled_n)
    assert parse(as_redis_returns(report.fields()), NOW) == [report]


def test_the_order_of_fields_does_not_matter() -> None:
    """Another client may send them in any order; of a repeated field the last one counts."""
    usual = flat()
    pairs = [usual[at : at + 2] for at in range(0, len(usual), 2)]
    assert parse([part for pair in reversed(pairs) for part in pair], NOW) == parse(usual, NOW)
    assert parse([*usual, b"writes", b"43"], NOW) == parse(flat(writes=b"43"), NOW)


def test_unknown_fields_are_ignored() -> None:
    """A later version may add fields to version 1 without breaking older services."""
    assert parse([*flat(), b"colour", b"blue"], NOW) == [HeatReport("conv_1", "app-1", int(NOW) - 1, 42)]
    assert parse([*several(), b"requeued", b"1"], NOW) == parse(several(), NOW)


def test_an_entry_with_several_reports() -> None:
    """They share the server and the window; the third number of a row is the N that was too few."""
    window = int(NOW) - 1
    expected = [HeatReport("conv_1", "app-1", window, 42), HeatReport("conv_2", "app-1", window, 7, 4)]
    assert parse(several(), NOW) == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([], "no version"),
        (flat(v=b"3"), "unknown version '3'"),
        (flat(v=b"2"), "no field reports"),
        (flat(v=b"\xff"), "unknown version"),
        (flat(v=None), "no version"),
        (flat(conversation_id=None), "no field conversation_id"),
        (flat(server=None), "no field server"),
        (flat(window=None), "no field window"),
        (flat(writes=None), "no field writes"),
        (flat(conversation_id=b""), "empty"),
        (flat(conversation_id=b"conv#3"), "holds a '#'"),
        (flat(conversation_id=b"\xff\xfe"), "not UTF-8"),
        (flat(conversation_id=b"c" * 2001), "2001 bytes"),
        (flat(conversation_id=b"c" * 5000), "at most 4096 are allowed"),
        (flat(server=b""), "server name"),
        (flat(server=b"s" * 256), "server name"),
        (flat(writes=b"-1"), "writes is not a whole number: '-1'"),
        (flat(writes=b"1e9"), "not a whole number"),
        (flat(writes=b"1.5"), "not a whole number"),
        (flat(writes=b""), "not a whole number"),
        (flat(writes=b"9" * 400), "not a whole number"),
        (flat(writes=str(MAX_WRITES + 1).encode()), "possible"),
        (flat(writes="٣".encode()), "not a whole number"),
        (flat(window=b"tomorrow"), "window is not a whole number"),
        (flat(window=str(int(NOW) + 61).encode()), "in the future"),
        (flat(throttled_n=b""), "throttled_n is not a whole number: ''"),
        (flat(throttled_n=b"many"), "throttled_n is not a whole number"),
        (flat(throttled_n=b"70000"), "throttled at N"),
        ([b"a", b"b"] * 17, "17 fields"),
        (several(server=None), "no field server"),
        (several(server=b""), "server name"),
        (several(window=b"-1"), "window is not a whole number"),
        (several(window=str(int(NOW) + 61).encode()), "in the future"),
        (several(b""), "reports: "),
        (several(b"[]"), "0 reports in one entry"),
        (several(b"null"), "reports: Expected `array`"),
        (several(b'{"conv_1":42}'), "reports: Expected `array`"),
        (several(b'["conv_1",42]'), "reports: Expected `array`"),
        (several(b'[["conv_1",42]'), "reports: "),
        (several(b'[["conv_1",42]]]'), "reports: "),
        (several(b'[["conv_1"]]'), "reports: "),
        (several(b'[["conv_1",42,4,1]]'), "reports: "),
        (several(b'[["conv_1","42"]]'), "reports: Expected `int`"),
        (several(b'[["conv_1",true]]'), "reports: Expected `int`"),
        (several(b'[["conv_1",null]]'), "reports: Expected `int`"),
        (several(b'[["conv_1",4.5]]'), "reports: Expected `int`"),
        (several(b'[["conv_1",-1]]'), "reports: Expected `int`"),
        (several(b'[["conv_1",NaN]]'), "reports: "),
        (several(b'[["conv_1",42,-4]]'), "reports: Expected `int`"),
        (several(b'[["conv_1",10000001]]'), "possible"),
        (several(b'[["conv_1",' + b"9" * 400 + b"]]"), "reports: "),
        (several(b'[["conv_1",' + b"9" * 12 + b"]]"), "possible"),
        (several(b'[["conv_1",42,70000]]'), "throttled at N"),
        (several(b"[[7,42]]"), "reports: Expected `str`"),
        (several(b'[["",42]]'), "empty"),
        (several(b'[["conv_1",42],["conv#3",42]]'), "holds a '#'"),
        (several(b'[["\xff",42]]'), "UTF-8|reports: "),
        (several(b'[["\\ud800",42]]'), "UTF-8|reports: "),
        (several(b"[" * 4000), "reports: "),
        (several(b"[" + b",".join([b'["c",1]'] * 21) + b"]"), "21 reports in one entry"),
        (several(b'[["' + b"c" * 4090 + b'",42]]'), "at most 4096 are allowed"),
    ],
)
def test_an_invalid_report_has_a_reason(fields: list[bytes], reason: str) -> None:
    """Malformed, oversized, hostile, of another version or from the future: refused, and the reason says which."""
    with pytest.raises(BadReportError, match=reason.replace("#", "\\#")) as found:
        parse(fields, NOW)
    assert len(str(found.value)) < 300 or "'#'" in reason


def test_a_clock_that_is_a_minute_ahead_is_accepted() -> None:
    """Servers' clocks differ: a minute is let pass."""
    (report,) = parse(flat(window=str(int(NOW) + 59).encode()), NOW)
    assert report.window == int(NOW) + 59


REPORTS = st.builds(
    HeatReport,
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="#"), min_size=1, max_size=400).filter(
        lambda text: len(text.encode()) <= 2000
    ),
    st.sampled_from(["app-1", "app-2", "ä" * 255]),
    st.integers(int(NOW) - 2, int(NOW)),
    st.integers(0, MAX_WRITES),
    st.integers(0, MAX_THROTTLED_N),
)


@given(
    st.lists(
        st.one_of(
            REPORTS, st.builds(HeatReport, st.sampled_from("abc"), st.just("s"), st.just(1), st.just(2), st.just(0))
        )
    )
)
def test_all_reports_survive_the_stream(reports: list[HeatReport]) -> None:
    """However they share entries: all, in their order, each entry within the limits of its reader."""
    entries = [as_redis_returns(fields) for fields in to_entries(reports)]
    assert [report for entry in entries for report in parse(entry, NOW)] == reports
    assert all(len(b"".join(entry)) <= MAX_ENTRY_BYTES for entry in entries)


def test_as_many_reports_share_an_entry_as_fit() -> None:
    """At most 20, and at most 4,096 bytes; a report alone is an entry of version 1."""
    window = int(NOW)
    short = [HeatReport(f"conv_{number}", "app", window, 1) for number in range(2 * MAX_REPORTS + 1)]
    long = [HeatReport("c" * 990 + str(number), "app", window, 1) for number in range(5)]
    counts = [[len(parse(as_redis_returns(e), NOW)) for e in to_entries(reports)] for reports in (short, long)]
    assert counts == [[MAX_REPORTS, MAX_REPORTS, 1], [4, 1]]
    assert list(to_entries(short))[-1] == short[-1].fields()


@given(st.lists(st.binary(max_size=60), max_size=40))
def test_any_bytes_are_parsed_or_refused(fields: list[bytes]) -> None:
    """Any bytes are either a report or refused with a short reason."""
    reason = "a report"
    try:
        parse(fields, NOW)
    except BadReportError as exc:
        reason = str(exc)
    assert 0 < len(reason) < 3000


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(["v", "window", "writes", "server", "conversation_id"]), st.binary(max_size=30)))
def test_valid_reports_are_within_bounds(changes: dict[str, bytes]) -> None:
    """Any values of the known fields give a report within bounds or an error."""
    try:
        (report,) = parse(flat(**changes), NOW)
    except BadReportError:
        return
    assert 0 <= report.writes <= MAX_WRITES
    assert report.window <= NOW + 60
    assert "#" not in report.conversation_id
