"""The decision how many salts a conversation needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from saltctl.salting import needed_n, power_of_two_at_least
from saltctl.settings import Settings
from saltctl.stores.heat.report import HeatReport


@dataclass(frozen=True, slots=True)
class RaiseDecision:
    """The N that a conversation needs. ``rate`` is in write units a second; 0 if DynamoDB throttled it."""

    conversation_id: str
    n: int
    rate: int
    window: int
    clamped: bool

    @property
    def reason(self) -> str:
        """The reason that is recorded with the raise."""
        cause = f"{self.rate:,} write units a second" if self.rate else "throttled by DynamoDB"
        return f"{cause} in window {self.window}" + (", clamped at the cap" if self.clamped else "")


def decide(report: HeatReport, total: int, settings: Settings) -> RaiseDecision | None:
    """Return the N that a conversation needs; None if it needs no salts.

    ``total``: its write units in the window of the report.
    """
    if total <= settings.wps_per_salt and not report.throttled_n:
        return None
    by_rate = power_of_two_at_least(math.ceil(total / settings.wps_per_salt))
    # A conversation that was throttled at N needs the next N, even if its write rate is low.
    by_throttling = 2 * power_of_two_at_least(report.throttled_n) if report.throttled_n else 1
    needed = max(by_rate, by_throttling)
    n = needed_n(needed, 1, settings.max_n_cap)
    rate = total if by_rate >= by_throttling else 0
    return RaiseDecision(report.conversation_id, n, rate, report.window, clamped=needed > n)
