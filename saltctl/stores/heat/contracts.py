"""Values of the heat stream, and the two contracts that have more than one implementation. No driver is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from saltctl.errors import SaltctlError
from saltctl.stores.heat.report import HeatReport

AHEAD_SECONDS = 300.0
"""An id that is so far ahead of the clock is not the time at which its entry was added."""
FIRST_ID = "0-0"
"""The stream id below all entries."""


class Entry(NamedTuple):
    """An entry of the stream: its id and its flat fields. ``fields`` is None if it was trimmed while pending."""

    id: str
    fields: list[bytes] | None


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    """One consumer of a group. ``idle_s``: seconds since its last command."""

    name: str
    pending: int
    idle_s: float


@dataclass(frozen=True, slots=True)
class TrimLoss:
    """Entries that were removed before the group had read them: between two ids, both exclusive."""

    entries: int
    after_id: str
    before_id: str | None


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """One consumer group. ``lag``: the number of unread entries, or None if it cannot be determined.

    ``trimmed_pending``: pending entries that were trimmed before they were handled; at most 10,000 are counted.
    """

    name: str
    lag: int | None
    pending: int
    oldest_pending_id: str | None
    last_delivered_id: str
    consumers: tuple[ConsumerInfo, ...]
    loss: TrimLoss | None
    trimmed_pending: int = 0


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The stream at one moment. ``added``: the number of entries ever added; a lost stream starts at 0.

    ``newest``: the time of the last id, in seconds since the epoch. Later ids continue from it, even if it is ahead.
    """

    length: int
    first_id: str | None
    last_id: str | None
    groups: tuple[GroupInfo, ...]
    added: int = 0
    newest: float = 0.0

    def ahead(self, now: float) -> float:
        """Return by how many seconds the newest id is ahead of ``now``; 0 if clocks may differ by as much."""
        return self.newest - now if self.newest > now + AHEAD_SECONDS else 0.0

    def group(self, name: str) -> GroupInfo | None:
        """Return the group of this name, or None."""
        return next((group for group in self.groups if group.name == name), None)


def id_order(entry_id: str) -> tuple[int, int]:
    """Return the sort order of a stream id: milliseconds since the epoch, and a sequence number."""
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)


class ReportSink(Protocol):
    """Destination of a write meter's reports: ``HeatStream``, or a callback of the application."""

    def append_reports(self, reports: Sequence[HeatReport]) -> None:
        """Add all reports in one round trip with a short deadline; raises SaltctlError if that fails."""


class ReportSums(Protocol):
    """Sums of heat reports: ``WindowSums`` in Redis, or ``InMemorySums`` in a dry run."""

    def add(self, reports: Sequence[HeatReport]) -> Sequence[int | SaltctlError]:
        """Add the reports, each once. Return for each the write units of its conversation in its window so far.

        A report that could not be added has its error instead.
        """
