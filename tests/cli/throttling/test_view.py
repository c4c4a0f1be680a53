"""Tests of the human view of a throttle scan."""

from __future__ import annotations

from io import StringIO

import pytest

from saltctl.cli.throttling.view import block_rows, draw, sum_into_bars
from saltctl.stores.contracts.metrics import Contributors
from saltctl.throttling.diagnosis import ServiceStatus
from saltctl.throttling.scan import ScanOptions, scan_table
from tests.throttling.fake_store import FakeMetricsStore
from tests.throttling.series import OVER, events


@pytest.mark.parametrize("width", [80, 120])
def test_hot_keys_and_spikes(width: int) -> None:
    """The view names the salt of a hot key and sums up the spikes, within the width of the terminal."""
    from rich.console import Console

    store = FakeMetricsStore(
        events("WriteKeyRangeThroughputThrottleEvents", 12, 0, 406),
        contributors=Contributors("enabled", (("conv_hot_12#3", 400.0), ("conv_1", 18.0))),
    )
    result = scan_table(store, ScanOptions("t", OVER), ServiceStatus("ok", 0, 2), lambda _: {"conv_hot_12": 16})
    out = StringIO()
    draw(Console(file=out, width=width, markup=False, highlight=False), result)
    words = " ".join(out.getvalue().split())
    assert words.startswith("hot-partition t, 07:00 to 08:00 UTC")
    assert "2 spikes; highest 406/min at 07:59 (typical 0)" in words
    assert "conv_hot_12 1 400 16 salt 3" in words
    assert "conv_1 1 18 — base partition" in words
    assert "ended" not in words
    assert all(len(line) <= width for line in out.getvalue().splitlines())


def test_throttling_that_ended_is_told_as_ended() -> None:
    """The view says when the last event was, if that is well before the end of the range."""
    from rich.console import Console

    def shown(minute: int) -> str:
        """Return the view of a scan whose last event was in that minute of the hour."""
        values = [0.0] * (minute - 1) + [20, 406] + [0.0] * (59 - minute)
        store = FakeMetricsStore(events("WriteKeyRangeThroughputThrottleEvents", *values))
        result = scan_table(store, ScanOptions("t", OVER), ServiceStatus("ok", 0, 2), lambda _: {})
        out = StringIO()
        draw(Console(file=out, width=120, markup=False, highlight=False), result)
        return out.getvalue()

    assert "throttling ended at 07:30, 30 min before the end of the range" in shown(30)
    assert "throttling ended at 07:54, 6 min" in shown(54)
    assert "ended" not in shown(55)


def test_small_bars_are_visible_and_sums_are_kept() -> None:
    """One event next to a million is still a visible block; the sum of the bars is the sum of the values."""
    top, middle, bottom = block_rows([1_000_000.0, 1.0, 0.0])
    assert (top[0], middle[0], bottom) == ("█", "█", ["█", "▁", " "])
    bars, each = sum_into_bars([1.0] * 1441, 72)
    assert (len(bars) <= 72, sum(bars), each) == (True, 1441, 21)
