"""What operations may expect of a store: values, semantics and errors. No driver is imported here.

Every implementation, the real ones and the in-memory ones of the tests, keeps what these docstrings say;
the protocol is proved against them (tests/model/).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, Protocol

Item = Mapping[str, Mapping[str, Any]]
"""A row in the format of DynamoDB's low-level client: attribute name to ``{"S": …}`` and so on."""
SortKey = str | Decimal


@dataclass(frozen=True, slots=True)
class Raise:
    """One raise as the backup remembers it. ``at`` is ISO 8601 UTC."""

    n: int
    at: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """One conversation's item in the backup table. ``write_n`` is never above ``max_n``."""

    conversation_id: str
    max_n: int
    write_n: int
    raises: tuple[Raise, ...] = ()


@dataclass(frozen=True, slots=True)
class DamagedEntry:
    """An item of the backup table that saltctl cannot have written, and what is wrong with it."""

    conversation_id: str
    problem: str


@dataclass(frozen=True, slots=True)
class BackupPage:
    """One page of a scan: (conversation id, max_n, write_n) triples, in no order."""

    entries: list[tuple[str, int, int]]
    damaged: list[DamagedEntry]
    consumed_rcu: float
    """Read capacity units that the page consumed, as DynamoDB reports it; 0 where it does not."""
    segment: int
    """-1 for an empty page that is a sign of life."""
    last: str | None = None
    """The id up to which the segment is read now; None at its end."""
    above_cap: list[tuple[str, int]] = field(default_factory=list)
    """Those of ``entries`` whose max_n is above max_n_cap: somebody else's, or of a larger cap; served all the same."""


@dataclass(frozen=True, slots=True)
class RaiseOutcome:
    """What a conditional update found: max_n before it, and whether it changed anything."""

    before: int
    changed: bool


class BackupStore(Protocol):
    """The backup table. It never loses what it acknowledged, and conditions are checked at one primary copy.

    All methods raise ConfigurationError where the table is missing or has other keys, AccessDeniedError,
    ThrottledError and AwsUnavailableError (after retries). A write that raised may still have happened.
    """

    def get(self, conversation_id: str) -> BackupEntry | None:
        """Strongly consistent read; None where there is no item. Raises DamagedEntryError."""
        ...

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """Strongly consistent reads; an id without an item is left out. Raises DamagedEntryError."""
        ...

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Atomically: set max_n to ``entry.n`` and remember the raise where max_n is absent or lower.

        Where the condition fails, nothing changes and the outcome's ``before`` is what is held.
        """
        ...

    def commit_write_n(self, conversation_id: str, n: int) -> bool:
        """Atomically: set write_n to n where it is absent or lower; whether it changed."""
        ...

    def claim_layout(self, layout: str, key_prefix: str) -> None:
        """Bind the table to one registry layout, once and for all; a second claim of the same is no change.

        Raises ConfigurationError where the table is bound to another: a client that merged into other
        buckets would acknowledge raises that nobody sees.
        """
        ...

    def check_layout(self, layout: str, key_prefix: str) -> None:
        """Raise as ``claim_layout`` does, and write nothing."""
        ...

    def scan(
        self,
        segments: int,
        *,
        limit: int | None = None,
        only: int | None = None,
        after: Mapping[int, str | None] | None = None,
        max_rcu: float | None = None,
    ) -> Generator[BackupPage, None, None]:
        """Every item that existed before the call, by ``segments`` parallel strongly consistent scans.

        ``after`` has, by segment, the id after which it goes on, None where it is done; the others begin at their
        start. ``limit`` bounds the items of a page, for tests; ``only`` scans one segment of the
        so many and leaves the others out; ``max_rcu`` bounds the read capacity units a second.
        Each item's read is consistent, the scan as a whole is no snapshot. Waits out throttling, and goes slower
        after it. Closing the iterator stops the segments. An empty page is yielded about every second while
        nothing arrives, so that the caller can do what it must do regularly.
        """
        ...


class RebuildSession(Protocol):
    """A rebuild's own connection to one primary. It belongs to one server process and never reconnects.

    Every method raises RedisUnavailableError once the server was lost, and then again each time.
    """

    @property
    def primary(self) -> str:
        """The primary's name, as in ``RegistryStore.primaries``."""
        ...

    @property
    def replication_id(self) -> str:
        """Who the primary was when it was marked; it changes at every start and promotion. Empty before."""
        ...

    def mark(self, token: str) -> None:
        """Put ``#rebuild`` = token into every bucket of this primary, and remember who the primary is.

        Raises ConfigurationError where a bucket is fenced under another layout.
        """
        ...

    def recognise(self, token: str, replication_id: str) -> str:
        """Instead of ``mark``: why what an earlier session marked and merged does not stand any more.

        Empty where the primary still goes by this replication id and every bucket still has the token: then this
        session goes on as if it had marked them itself. ``finish`` proves it once more.
        """
        ...

    def begin_merge(self, entries: Sequence[tuple[str, int] | tuple[str, int, int]]) -> None:
        """Max-merge the entries (id, max_n), all of buckets of this primary, without waiting for it."""
        ...

    def end_merge(self) -> int:
        """Wait until all merges that were begun are done; how many entries they raised."""
        ...

    def finish(self, token: str) -> None:
        """Fence every bucket that still has the token, on the primary as it was marked.

        Raises RebuildBrokenError where a token is gone or the primary is no longer the same.
        """
        ...

    def load_lookup(self) -> None:
        """Load the lookup script into this server process, which verifies it."""
        ...

    def close(self) -> None:
        """Give the connection up."""
        ...


class RegistryStore(Protocol):
    """The registry in Redis, spread over one or more primaries. It may lose everything at any time.

    Methods raise RedisUnavailableError (outages, timeouts), AccessDeniedError and ConfigurationError.
    """

    def primaries(self) -> Sequence[str]:
        """The names of all primaries: host and port, never a password."""
        ...

    def by_primary(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """The ids grouped by the primary that has their bucket."""
        ...

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """max_n of each id, None where there is no entry; all of ids on this primary. Never retried.

        Raises UnverifiedError where this process was not verified, or was verified under another layout.
        """
        ...

    def raw(self, conversation_ids: Sequence[str]) -> dict[str, int | None]:
        """What Redis holds, verified or not; for people, never for routing."""
        ...

    def merge(self, conversation_id: str, n: int) -> bool:
        """Max-merge one entry, whether or not Redis is verified; whether it changed. Safe to repeat."""
        ...

    def verified(self) -> dict[str, bool]:
        """For each primary, whether every bucket of it answers lookups."""
        ...

    def sessions(self) -> Sequence[RebuildSession]:
        """One new session for each primary."""
        ...


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """Who holds the lease. Times are seconds since the epoch, by the holder's clock."""

    owner: str
    host: str
    pid: int
    since: float
    heartbeat: float
    progress: str


class LeaseStore(Protocol):
    """The lease item in the backup table, which keeps rebuilds from wasting each other's work.

    Safety does not hang on it: two rebuilds at once break each other's tokens.
    """

    def acquire(self, owner: str, now: float, *, host: str, pid: int, expiry: float) -> LeaseHolder | None:
        """Take the lease where it is free or its heartbeat is older than ``expiry`` seconds.

        Returns None when taken, else the holder.
        """
        ...

    def renew(self, owner: str, now: float, progress: str) -> bool:
        """Renew; False where somebody else has taken it over."""
        ...

    def release(self, owner: str) -> None:
        """Give it back where it is still ours."""
        ...

    def holder(self) -> LeaseHolder | None:
        """Who holds it now, also where the heartbeat is old."""
        ...


@dataclass(frozen=True, slots=True)
class TableKeys:
    """The key names of a messages table, and the type of its sort key: text or number."""

    partition_key: str
    sort_key: str
    sort_type: Literal["S", "N"]


@dataclass(frozen=True, slots=True)
class TableSize:
    """How large a table is, as DescribeTable says: about six hours old (documented)."""

    items: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter expression of DynamoDB. Its names and values are placeholders as DynamoDB wants them.

    A filter is applied after reading: rows that it leaves out are paid for, and may not name the keys.
    """

    expression: str
    names: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartitionQuery:
    """One request for rows of one partition. ``low`` and ``high`` are sort keys and included.

    ``limit`` counts rows before the filter; None is as many as fit in 1 MB. ``start`` goes on where an
    earlier answer to the same query ended.
    """

    partition_key: str
    descending: bool = True
    limit: int | None = None
    low: SortKey | None = None
    high: SortKey | None = None
    start: Item | None = None
    consistent: bool = True
    filter: Filter | None = None
    keys_only: bool = False


@dataclass(frozen=True, slots=True)
class PartitionAnswer:
    """Some rows of a partition, in the order asked for.

    ``next`` is the key up to which the partition was read; None, and nothing else, means to its end: an
    empty or short answer may have one. ``scanned`` counts rows before the filter; ``consumed_rcu`` is 0
    where DynamoDB does not say.
    """

    items: Sequence[Item]
    scanned: int
    consumed_rcu: float
    next: Item | None


@dataclass(frozen=True, slots=True)
class KeysPage:
    """The partition keys of one page of a scan, one for each row."""

    partition_keys: Sequence[str]
    consumed_rcu: float


class MessageStore(Protocol):
    """The messages table: rows of (partition key, sort key), and a sort key is there once in a partition.

    All methods raise ConfigurationError where the table is missing or its keys are no text and no text or
    number, AccessDeniedError, ThrottledError and AwsUnavailableError (after retries); where a partition
    is asked, the message names it. Thread-safe.
    """

    @property
    def keys(self) -> TableKeys:
        """The table's key names, asked for once."""
        ...

    def query(self, request: PartitionQuery) -> PartitionAnswer:
        """Ask one partition once."""
        ...

    def get(self, partition_key: str, sort_key: SortKey) -> Item | None:
        """Strongly consistent read of one row."""
        ...

    def put(self, partition_key: str, sort_key: SortKey, attributes: Item) -> bool:
        """Write one row unless it exists; whether it was written now. Safe to repeat."""
        ...

    def size(self) -> TableSize:
        """How large the table is."""
        ...

    def scan_keys(self, segments: int, *, consistent: bool = True) -> Generator[KeysPage, None, None]:
        """The partition key of every row that existed before the call, by parallel scans, in no order.

        Waits out throttling, within reason. Closing the iterator stops it.
        """
        ...


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
