"""In-memory fakes of the stores that detection uses."""

from __future__ import annotations

from collections.abc import Sequence

from saltctl.errors import SaltctlError
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import RaiseResult
from saltctl.stores.heat.contracts import FIRST_ID, ConsumerInfo, Entry, GroupInfo, StreamInfo, TrimLoss, id_order
from saltctl.stores.heat.report import HeatReport, to_entries
from saltctl.stores.heat.window_sums import InMemorySums

NOW = 1_800_000_000


class Clock:
    """Seconds that pass only when a test or a sleep says so."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class FakeStream:
    """A heat stream with one group, in memory. ``calls`` are the methods called, in order.

    ``failures`` are raised by the next calls of a method, one each. An entry's idle time is that of ``idle``.
    """

    key, group = "salt:heat", "saltctl"

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.entries = list(entries)
        self.delivered = 0
        self.held: dict[str, str] = {}
        self.idle: dict[str, float] = {}
        self.deleted_ids: list[str] = []
        self.added = 0
        self.loss: TrimLoss | None = None
        self.calls: list[str] = []
        self.failures: dict[str, list[SaltctlError]] = {}
        self.blocked_for: list[float] = []
        self.trimmed_before: list[float] = []
        self.deleted_consumers: list[tuple[float, str | None]] = []

    def deliver(self, consumer: str, count: int, *, idle: float = 0.0) -> None:
        """Deliver entries to another consumer, which has been idle since."""
        for entry in self.read_new(consumer, count):
            self.idle[entry.id] = idle
        self.calls.clear()

    def _begin(self, method: str) -> None:
        self.calls.append(method)
        if self.failures.get(method):
            raise self.failures[method].pop(0)

    def _find(self, entry_id: str) -> Entry:
        return next(entry for entry in self.entries if entry.id == entry_id)

    def create_group(self) -> None:
        """Create the group."""
        self._begin("create_group")

    def send_heartbeat(self, consumer: str) -> None:
        """Send a heartbeat."""
        self._begin("send_heartbeat")

    def read_own(self, consumer: str, after: str, count: int) -> list[Entry]:
        """Read own pending entries."""
        self._begin("read_own")
        own = [entry_id for entry_id, holder in self.held.items() if holder == consumer]
        return [self._find(i) for i in sorted(own, key=id_order) if id_order(i) > id_order(after)][:count]

    def read_new(self, consumer: str, count: int, block: float = 0.0) -> list[Entry]:
        """Read entries that were never delivered."""
        self._begin("read_new")
        self.blocked_for.append(block)
        new = self.entries[self.delivered : self.delivered + count]
        self.delivered += len(new)
        self.held.update((entry.id, consumer) for entry in new)
        return new

    def claim(self, consumer: str, idle: float, cursor: str, count: int) -> tuple[str, list[Entry], list[str]]:
        """Claim idle entries."""
        self._begin("claim")
        old = [i for i in self.held if self.idle.get(i, 0.0) >= idle and id_order(i) >= id_order(cursor)]
        claimed, rest = old[:count], old[count:]
        for entry_id in claimed:
            self.held[entry_id] = consumer
            self.idle[entry_id] = 0.0
        deleted, self.deleted_ids = self.deleted_ids, []
        return rest[0] if rest else FIRST_ID, [self._find(i) for i in claimed], deleted

    def acknowledge(self, ids: Sequence[str]) -> int:
        """Acknowledge entries."""
        self._begin("acknowledge")
        return sum(self.held.pop(entry_id, None) is not None for entry_id in ids)

    def trim(self, keep_from: float) -> int:
        """Trim nothing."""
        self._begin("trim")
        self.trimmed_before.append(keep_from)
        return 0

    def delete_idle_consumers(self, idle: float, name: str | None = None) -> list[str]:
        """Delete consumers."""
        self._begin("delete_idle_consumers")
        self.deleted_consumers.append((idle, name))
        return []

    def range(self, first: str, last: str, count: int) -> list[Entry]:
        """Return entries between two ids."""
        self._begin("range")
        low = (0, 0) if first == "-" else id_order(first.removeprefix("("))
        high = (2**64, 0) if last == "+" else id_order(last)
        inside = [entry for entry in self.entries if low <= id_order(entry.id) <= high]
        return [entry for entry in inside if not (first.startswith("(") and id_order(entry.id) == low)][:count]

    def pending(self, first: str, count: int) -> list[tuple[str, str, float]]:
        """Return pending entries."""
        self._begin("pending")
        low = (0, 0) if first == "-" else id_order(first.removeprefix("("))
        ids = [i for i in sorted(self.held, key=id_order) if id_order(i) >= low and first != f"({i}"]
        return [(i, self.held[i], self.idle.get(i, 0.0)) for i in ids[:count]]

    def get(self, ids: Sequence[str]) -> list[Entry]:
        """Return entries by id."""
        self._begin("get")
        return [self._find(entry_id) for entry_id in ids]

    def info(self) -> StreamInfo:
        """Return the state of the stream."""
        self._begin("info")
        consumers = tuple(ConsumerInfo(name, 1, 0.0) for name in sorted(set(self.held.values())))
        oldest = min(self.held, key=id_order, default=None)
        delivered = self.entries[self.delivered - 1].id if self.delivered else FIRST_ID
        lag = len(self.entries) - self.delivered
        group = GroupInfo(self.group, lag, len(self.held), oldest, delivered, consumers, self.loss)
        first, last = (self.entries[0].id, self.entries[-1].id) if self.entries else (None, None)
        return StreamInfo(len(self.entries), first, last, (group,), self.added)


class FakeRegistry:
    """max_n of conversations, in memory. ``failures`` are raised by the next raises, one each."""

    def __init__(self, calls: list[str] | None = None) -> None:
        self.max_n: dict[str, int] = {}
        self.calls = [] if calls is None else calls
        self.failures: list[SaltctlError] = []

    def raise_to(self, conversation_id: str, n: int, *, reason: str = "", actor: str | None = None) -> RaiseResult:
        """Raise."""
        self.calls.append("raise_to")
        if self.failures:
            raise self.failures.pop(0)
        before = self.max_n.get(conversation_id, 1)
        self.max_n[conversation_id] = max(before, n)
        return RaiseResult(conversation_id, before, max(before, n), n > before, True, "commit")

    def lookup_many(self, conversation_ids: Sequence[str]) -> dict[str, Lookup]:
        """Look up max_n."""
        return {i: Lookup(i, n := self.max_n.get(i, 1), n, "redis", n) for i in conversation_ids}


class RecordingSums(InMemorySums):
    """Sums that record each call and raise ``fault`` if it is set.

    ``errors`` has the error of a conversation: a SaltctlError is returned for its report, another one is raised.
    """

    def __init__(self, calls: list[str] | None = None) -> None:
        super().__init__()
        self.calls = [] if calls is None else calls
        self.fault: SaltctlError | None = None
        self.errors: dict[str, Exception] = {}

    def add(self, reports: Sequence[HeatReport]) -> Sequence[int | SaltctlError]:  # type: ignore[override]
        """Add reports."""
        self.calls.append("add")
        if self.fault is not None:
            raise self.fault
        found: list[int | SaltctlError] = list(super().add(reports))
        for position, report in enumerate(reports):
            exc = self.errors.get(report.conversation_id)
            if isinstance(exc, SaltctlError):
                found[position] = exc
            elif exc is not None:
                raise exc
        return found


def report_entry(
    number: int,
    conversation_id: str,
    writes: int = 2000,
    *,
    server: str = "app",
    window: int = NOW,
    n: int = 0,
) -> Entry:
    """Return a report as it comes from the stream, with the id ``number-0``. ``n``: throttled at this N."""
    report = HeatReport(conversation_id, server, window, writes, n)
    return Entry(f"{number}-0", [str(part).encode() for part in report.fields()])


def shared_entry(number: int, *conversations: str, writes: int = 2000, window: int = NOW) -> Entry:
    """Return an entry with a report of each of these conversations, from one server."""
    (fields,) = to_entries([HeatReport(name, "app", window, writes) for name in conversations])
    return Entry(f"{number}-0", [str(part).encode() for part in fields])
