"""CloudWatch in memory, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence

from saltctl.errors import SaltctlError
from saltctl.stores.contracts.metrics import Alarm, AlarmSpec, Contributors, MetricKey, MetricSeries, TableDescription
from tests.throttling.series import TRAFFIC


class FakeMetricsStore:
    """A ``MetricsStore`` with the given series. ``errors`` are raised by the method of that name."""

    def __init__(
        self,
        *series: MetricSeries,
        contributors: Contributors | None = None,
        errors: dict[str, SaltctlError] | None = None,
    ) -> None:
        self.series = {one.key: one for one in (TRAFFIC, *series)}
        self.insights = contributors or Contributors("disabled", ())
        self.errors = errors or {}
        self.existing: dict[str, Alarm] = {}

    def describe(self, table: str) -> TableDescription:
        """Describe a table with one index."""
        self._raise("describe")
        return TableDescription(table, ("by_user",), on_demand=True)

    def read(self, keys: Sequence[MetricKey], start: int, end: int, period_s: int) -> list[MetricSeries]:
        """Return the given series, and empty ones for the other keys."""
        self._raise("read")
        return [self.series.get(key, MetricSeries(key)) for key in keys]

    def contributors(self, table: str, start: int, end: int) -> Contributors:
        """Return the given contributors."""
        return self.insights

    def alarms(self, prefix: str) -> list[Alarm]:
        """Return the alarms with this prefix."""
        return [alarm for name, alarm in sorted(self.existing.items()) if name.startswith(prefix)]

    def put_alarm(self, spec: AlarmSpec) -> None:
        """Create or overwrite an alarm."""
        self.existing[spec.name] = Alarm(
            spec.name, spec.key, spec.threshold, spec.periods, spec.actions, spec.description, "OK", owned=True
        )

    def delete_alarms(self, names: Sequence[str]) -> None:
        """Delete alarms."""
        for name in names:
            self.existing.pop(name, None)

    def _raise(self, method: str) -> None:
        if method in self.errors:
            raise self.errors[method]
