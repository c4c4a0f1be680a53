"""The rate limiter of a scan, with a simulated clock."""

from __future__ import annotations

import random
from math import inf

import pytest

from saltctl.stores.aws.backup_scan import LEAST_RCU, Permit, RateLimiter


class Simulation:
    """Segments that read within the limit; each request takes ``latency`` seconds."""

    def __init__(self, max_rcu: float | None, segments: int = 4, latency: float = 0.01) -> None:
        self.now = 0.0
        self.consumed: list[tuple[float, float]] = []
        self.limiter = RateLimiter(max_rcu, clock=lambda: self.now)
        self._free_at = [0.0] * segments
        self._latency = latency
        self._random = random.Random(1)

    def run(self, seconds: float, *, capacity: float = inf, items_per_unit: float = 12.0) -> None:
        """Let time pass. A request that exceeds ``capacity`` in one second is refused."""
        end = self.now + seconds
        while self.now < end:
            number = min(range(len(self._free_at)), key=self._free_at.__getitem__)
            self.now = max(self.now, self._free_at[number])
            permit = self.limiter.request_permit()
            if permit.wait:
                self._free_at[number] = self.now + permit.wait
                continue
            items = self.limiter.page_limit() or 3000
            units = items / items_per_unit * self._random.uniform(0.8, 1.2)
            recent = sum(u for at, u in self.consumed[-300:] if at > self.now - 1)
            self._free_at[number] = self.now + self._latency
            if recent + units > capacity:
                self.limiter.slow_down(permit)
                self._free_at[number] = self.now + 0.1
            else:
                self.consumed.append((self.now, units))
                self.limiter.settle(permit, units, items)

    def rate(self, since: float = 0.0) -> float:
        """Units a second since then."""
        return sum(units for at, units in self.consumed if at >= since) / max(self.now - since, 0.1)

    def worst_second(self) -> float:
        """The most units in any one second."""
        return max(sum(u for at, u in self.consumed if begin <= at < begin + 1) for begin, _ in self.consumed)


@pytest.mark.parametrize("max_rcu", [5.0, 100.0, 3000.0])
@pytest.mark.parametrize("segments", [1, 4, 16])
@pytest.mark.parametrize("items_per_unit", [2.0, 12.0, 60.0])
def test_max_rcu_is_kept_and_used(max_rcu: float, segments: int, items_per_unit: float) -> None:
    """For any item size and number of segments: the average stays below the limit and uses it."""
    simulation = Simulation(max_rcu, segments)
    simulation.run(60.0, items_per_unit=items_per_unit)
    assert simulation.rate(since=20.0) <= 1.05 * max_rcu
    assert simulation.rate(since=20.0) >= 0.7 * max_rcu
    # The first pages are of unknown cost, and after a pause a second's worth is saved up.
    assert simulation.worst_second() <= (2.5 + 5 * segments / 4) * max_rcu + segments


def test_without_a_limit_no_request_waits() -> None:
    """Full pages, at once."""
    limiter = RateLimiter(None, clock=lambda: 0.0)
    for _ in range(100):
        assert limiter.request_permit() == Permit(0.0)
        assert limiter.page_limit() is None
        limiter.settle(Permit(0.0), 256.0, 3000)


@pytest.mark.slow
@pytest.mark.parametrize("max_rcu", [None, 5000.0])
def test_throttling_slows_the_scan_until_it_recovers(max_rcu: float | None) -> None:
    """The rate settles near the table's capacity with few refusals, and recovers afterwards."""
    simulation = Simulation(max_rcu)
    simulation.run(5.0)
    simulation.run(60.0, capacity=500.0)
    assert 200.0 <= simulation.rate(since=15.0) <= 500.0
    assert simulation.limiter.rate < 2000.0
    before = simulation.now
    simulation.run(60.0)
    assert simulation.rate(since=before + 30.0) >= 3000.0
    assert simulation.limiter.rate == (inf if max_rcu is None else max_rcu)


def test_simultaneous_refusals_slow_the_scan_once() -> None:
    """Segments that are refused at the same moment slow the scan down once, not each."""
    limiter = RateLimiter(1000.0, clock=lambda: 10.0)
    limiter.settle(Permit(0.0), 5000.0, 50_000)
    for _ in range(16):
        limiter.slow_down(Permit(0.0))
    assert limiter.rate == 500.0


def test_the_rate_has_a_lower_limit() -> None:
    """A table that refuses everything is still asked now and then, and a lower max_rcu stays the limit."""
    now = [0.0]
    limiter = RateLimiter(None, clock=lambda: now[0])
    for _ in range(20):
        now[0] += 1.0
        limiter.slow_down(Permit(0.0))
    assert LEAST_RCU <= limiter.rate <= 1.3 * LEAST_RCU
    slow = RateLimiter(2.0, clock=lambda: now[0])
    slow.slow_down(Permit(0.0))
    assert slow.rate == 2.0
