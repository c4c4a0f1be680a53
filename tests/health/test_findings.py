"""Tests of findings: how several are combined, and how clock skew is rated."""

from __future__ import annotations

import pytest

from saltctl.health.findings import clock_skew, combine, fail, ok, skip, warn


@pytest.mark.parametrize(("skew", "status"), [(0.7, "ok"), (-4.9, "ok"), (6, "warn"), (-61, "fail")])
def test_clock_skew_is_rated(skew: float, status: str) -> None:
    """Less than 5 s is ok, more is a warning, a minute is a failure."""
    assert clock_skew("a clock", skew, "x").status == status


def test_findings_are_combined() -> None:
    """The worst status wins, details that are ok are omitted, and each fix is listed once."""
    found = combine([ok("fine", a=1), warn("so so", "x"), fail("bad", "y"), fail("worse", "y"), skip("unknown")])
    assert (found.status, found.detail, found.fix) == ("fail", "so so; bad; worse", "x && y")
    assert found.measures == {"a": 1}
    assert combine([]).status == "skip"
