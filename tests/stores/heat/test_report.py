"""Parsing of heat reports: valid reports, and the reason for each invalid one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.stores.heat.report import MAX_WRITES, BadReportError, HeatReport, parse

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


def as_redis_returns(report: HeatReport) -> list[bytes]:
    """Return the fields as XREADGROUP returns them."""
    return [str(part).encode() for part in report.fields()]


@pytest.mark.parametrize("throttled_n", [0, 4])
def test_a_report_survives_the_stream(throttled_n: int) -> None:
    """The parsed report equals the sent one, even with names in other scripts."""
    report = HeatReport("conv_äöü", "app-1:77:ff", int(NOW), 812, throttled_n)
    assert parse(as_redis_returns(report), NOW) == report


def test_the_order_of_fields_does_not_matter() -> None:
    """Another client may send them in any order; of a repeated field the last one counts."""
    usual = flat()
    pairs = [usual[at : at + 2] for at in range(0, len(usual), 2)]
    assert parse([part for pair in reversed(pairs) for part in pair], NOW) == parse(usual, NOW)
    assert parse([*usual, b"writes", b"43"], NOW) == parse(flat(writes=b"43"), NOW)


def test_unknown_fields_are_ignored() -> None:
    """A later version may add fields to version 1 without breaking older services."""
    assert parse([*flat(), b"colour", b"blue"], NOW).writes == 42


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([], "no version"),
        (flat(v=b"2"), "unknown version '2'"),
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
    ],
)
def test_an_invalid_report_has_a_reason(fields: list[bytes], reason: str) -> None:
    """Malformed, oversized, hostile, of another version or from the future: refused, and the reason says which."""
    with pytest.raises(BadReportError, match=reason.replace("#", "\\#")):
        parse(fields, NOW)


def test_a_clock_that_is_a_minute_ahead_is_accepted() -> None:
    """Servers' clocks differ: a minute is let pass."""
    assert parse(flat(window=str(int(NOW) + 59).encode()), NOW).window == int(NOW) + 59


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
        report = parse(flat(**changes), NOW)
    except BadReportError:
        return
    assert 0 <= report.writes <= MAX_WRITES
    assert report.window <= NOW + 60
    assert "#" not in report.conversation_id
