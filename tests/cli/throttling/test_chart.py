"""Tests of the bar charts of ``saltctl throttle scan``."""

from __future__ import annotations

from saltctl.cli.throttling.chart import block_rows, sum_into_bars


def test_small_bars_are_visible_and_sums_are_kept() -> None:
    """One event next to a million is still a visible block; the sum of the bars is the sum of the values."""
    top, middle, bottom = block_rows([1_000_000.0, 1.0, 0.0])
    assert (top[0], middle[0], bottom) == ("█", "█", ["█", "▁", " "])
    bars, each = sum_into_bars([1.0] * 1441, 72)
    assert (len(bars) <= 72, sum(bars), each) == (True, 1441, 21)
