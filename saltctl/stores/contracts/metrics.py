"""Contracts of CloudWatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class TableDescription:
    """A table as its metrics see it: its global secondary indexes, and its billing mode."""

    table: str
    indexes: tuple[str, ...]
    on_demand: bool


@dataclass(frozen=True, slots=True)
class MetricKey:
    """A metric of the namespace AWS/DynamoDB with its dimensions; None for an absent dimension."""

    metric: str
    table: str
    index: str | None = None
    operation: str | None = None


@dataclass(frozen=True, slots=True)
class MetricSeries:
    """The sums of a metric: (start of a period in seconds since the epoch, sum), ascending.

    A period without data is left out; it does not count as zero.
    """

    key: MetricKey
    points: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Contributors:
    """The most throttled partition keys with their throttle events, most first, as far as known.

    ``disabled``: Contributor Insights is off; ``enabling`` and ``disabling``: it is about to be on or off;
    ``failed``: DynamoDB could not switch it on, and gives the reason ``why``; ``unsupported``: the endpoint does not
    have it; ``unreadable``: it cannot be read, see ``why``.
    """

    status: Literal["enabled", "enabling", "disabled", "disabling", "failed", "unsupported", "unreadable"]
    keys: tuple[tuple[str, float], ...]
    why: str = ""


@dataclass(frozen=True, slots=True)
class AlarmSpec:
    """The specification of an alarm: ``threshold`` events a minute or more, ``periods`` minutes in a row."""

    name: str
    key: MetricKey
    threshold: float
    periods: int
    actions: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class Alarm(AlarmSpec):
    """An alarm in CloudWatch. ``owned``: it has saltctl's tag."""

    state: str
    owned: bool


class MetricsStore(Protocol):
    """CloudWatch metrics and alarms of tables. Data arrives minutes late.

    Methods raise AccessDeniedError, ThrottledError and AwsUnavailableError (after retries).
    """

    def describe(self, table: str) -> TableDescription:
        """Return the table's indexes and billing mode; raises ConfigurationError if there is no such table."""

    def read(self, keys: Sequence[MetricKey], start: int, end: int, period_s: int) -> list[MetricSeries]:
        """Return one series per key, in their order. Times are seconds since the epoch; ``end`` is exclusive."""

    def contributors(self, table: str, start: int, end: int) -> Contributors:
        """Return the most throttled partition keys. Never raises: a scan continues without them."""

    def alarms(self, prefix: str) -> list[Alarm]:
        """Return the alarms with this name prefix, by name."""

    def put_alarm(self, spec: AlarmSpec) -> None:
        """Create or overwrite an alarm, with saltctl's tag."""

    def delete_alarms(self, names: Sequence[str]) -> None:
        """Delete alarms. An alarm that does not exist is not an error."""
