"""CloudWatch: its values, and what operations may expect of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class TableDescription:
    """What a table is to its metrics: the names of its global secondary indexes, and how it is paid."""

    table: str
    indexes: tuple[str, ...]
    on_demand: bool


@dataclass(frozen=True, slots=True)
class MetricKey:
    """A metric of the namespace AWS/DynamoDB and its dimensions; None where a dimension is absent."""

    metric: str
    table: str
    index: str | None = None
    operation: str | None = None


@dataclass(frozen=True, slots=True)
class MetricSeries:
    """The sums of a metric: (seconds since the epoch at which a period begins, sum), ascending.

    A period without data is left out, and is no zero.
    """

    key: MetricKey
    points: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Contributors:
    """The most throttled partition keys with their throttle events, most first, as far as they can be known.

    ``disabled``: Contributor Insights is off; ``unsupported``: the endpoint has none; ``failed``: see ``why``.
    """

    status: Literal["enabled", "disabled", "unsupported", "failed"]
    keys: tuple[tuple[str, float], ...]
    why: str = ""


@dataclass(frozen=True, slots=True)
class AlarmSpec:
    """An alarm as it is to be: at ``threshold`` events a minute or more, ``periods`` minutes in a row."""

    name: str
    key: MetricKey
    threshold: float
    periods: int
    actions: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm as CloudWatch has it; ``owned`` says that it bears saltctl's tag."""

    name: str
    key: MetricKey
    threshold: float
    periods: int
    actions: tuple[str, ...]
    description: str
    state: str
    owned: bool


class MetricsStore(Protocol):
    """CloudWatch, as far as it knows of tables. Data comes minutes late.

    Methods raise AccessDeniedError, ThrottledError and AwsUnavailableError (after retries).
    """

    def describe(self, table: str) -> TableDescription:
        """The table's indexes; ConfigurationError where there is no such table."""
        ...

    def read(self, keys: Sequence[MetricKey], start: int, end: int, period_s: int) -> list[MetricSeries]:
        """One series for each key, in their order. Times are seconds since the epoch, ``end`` is excluded."""
        ...

    def contributors(self, table: str, start: int, end: int) -> Contributors:
        """The most throttled partition keys; never raises, since a scan goes on without them."""
        ...

    def alarms(self, prefix: str) -> list[Alarm]:
        """The alarms whose name begins so, by name."""
        ...

    def put_alarm(self, spec: AlarmSpec) -> None:
        """Create or overwrite an alarm, tagged as saltctl's own."""
        ...

    def delete_alarms(self, names: Sequence[str]) -> None:
        """Delete alarms; one that is gone already is no error."""
        ...
