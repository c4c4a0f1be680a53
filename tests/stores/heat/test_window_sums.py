"""The shared sums of heat reports, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from saltctl.errors import WrongTypeError
from saltctl.settings import Settings
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.window_sums import WindowSums

NOW = 1_800_000_000


@pytest.fixture
def sums(settings: Settings) -> Iterator[WindowSums]:
    """The shared sums."""
    shared = WindowSums(settings)
    yield shared
    shared.close()


def report(number: int = 0, writes: int = 20, server: str = "app-1", window: int = NOW) -> HeatReport:
    """A report of a conversation of its own."""
    return HeatReport(f"conv_{number}", server, window, writes)


def test_sums_add_up_over_servers(sums: WindowSums) -> None:
    """A hundred servers' counts of one window are one sum; other windows and conversations are apart."""
    reports = [report(1, writes=80, server=f"app-{number}") for number in range(100)]
    assert sums.add(reports)[-1] == 8000
    assert sums.add([report(1, window=NOW + 1), report(2)]) == [20, 20]


def test_a_report_counts_once(sums: WindowSums) -> None:
    """Redelivered, repeated or corrected upwards: a server's part of a window is its highest count."""
    assert sums.add([report(1, 50), report(1, 50)]) == [50, 50]
    assert sums.add([report(1, 50)]) == [50]
    assert sums.add([report(1, 70, server="app-2")]) == [120]
    assert sums.add([report(1, 60)]) == [130]
    assert sums.add([report(1, 10)]) == [130]
    several = [report(2, 50), report(2, 5, server="app-2"), report(2, 70), report(2, 60)]
    assert sums.add(several) == [50, 55, 75, 75]
    assert sums.add(several) == [75] * 4


def test_ids_that_look_alike_are_not_mixed_up(sums: WindowSums) -> None:
    """A server may be called anything: its part of a sum is never another conversation's sum."""
    odd = HeatReport("a", "b#c\x00\n", NOW, 5)
    assert sums.add([odd, HeatReport("a", "b", NOW, 7), HeatReport("a", "", NOW, 9)]) == [5, 12, 21]


def test_sums_are_shared_and_expire(settings: Settings, sums: WindowSums, admin: Any) -> None:
    """Another instance adds to the same sum, and each sum expires."""
    sums.add([report(number) for number in range(3000)])
    assert WindowSums(settings).add([report(7, server="app-2")]) == [40]
    keys = list(admin.scan_iter(f"{settings.key_prefix}:sum:*"))
    assert 1 < len(keys) <= 16
    assert all(0 < admin.ttl(key) <= 900 for key in keys)


def test_large_sums_are_exact(settings: Settings, sums: WindowSums, admin: Any) -> None:
    """Lua's way to write large numbers does not reach the sums."""
    reports = [HeatReport("a", f"app-{number}", NOW, 10_000_000) for number in range(1500)]
    assert sums.add(reports)[-1] == 15_000_000_000
    assert sums.add([HeatReport("a", "one more", NOW, 1)]) == [15_000_000_001]
    (key,) = admin.scan_iter(f"{settings.key_prefix}:sum:*")
    admin.hset(key, "a", 2**53 - 3)
    assert sums.add([HeatReport("a", "yet one more", NOW, 1)]) == [2**53 - 2]
    assert sums.add([HeatReport("a", "the last one", NOW, 1)]) == [2**53 - 1]


def test_a_damaged_sum_stops_no_other(settings: Settings, sums: WindowSums, admin: Any) -> None:
    """A key of another type is the error of its reports alone."""
    sums.add([report(0)])
    (key,) = admin.scan_iter(f"{settings.key_prefix}:sum:*")
    admin.set(key, "x")
    found = sums.add([report(number) for number in range(100)])
    assert isinstance(found[0], WrongTypeError)
    assert 50 < found.count(20) < 100
    assert sums.add([report(0, window=NOW + 1)]) == [20]
